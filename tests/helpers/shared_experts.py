"""Tiny random mixtures with shared experts and dense blocks, and their neurons computed token by token.

The naive run takes from a model its weights and what its routers choose, and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import silu
from transformers import DeepseekV3Config, PreTrainedConfig, Qwen2MoeConfig

from dposcope.model.language_model import LanguageModel
from helpers.families import CONTEXT, VOCABULARY, bos_tokenizer, build

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 3,
}


@dataclass(frozen=True)
class Mixture:
    """One family, and its blocks by hand."""

    config: Callable[[], PreTrainedConfig]
    experts: int
    """Routed ones."""
    width: int
    """Of an expert."""
    chosen: int
    """Experts of a token."""
    dense: tuple[int, ...] = ()
    """Blocks without experts."""
    own: int = 0
    """Neurons of a dense block."""
    shared: int = 0
    """Neurons of shared experts in other blocks."""


SHARED = {
    # A shared expert as wide as two and a half routed ones, with a gate of its own.
    "qwen2_moe": Mixture(
        lambda: Qwen2MoeConfig(
            **_COMMON,
            intermediate_size=24,
            moe_intermediate_size=8,
            shared_expert_intermediate_size=20,
            num_experts=4,
            num_experts_per_tok=2,
        ),
        experts=4,
        width=8,
        chosen=2,
        shared=20,
    ),
    # A dense first block, narrower than the others, and two shared experts of weight 1.
    "deepseek_v3": Mixture(
        lambda: DeepseekV3Config(
            **_COMMON,
            intermediate_size=28,
            moe_intermediate_size=8,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_shared_experts=2,
            first_k_dense_replace=1,
            n_group=1,
            topk_group=1,
            kv_lora_rank=8,
            q_lora_rank=8,
            qk_rope_head_dim=4,
            qk_nope_head_dim=4,
            v_head_dim=8,
        ),
        experts=4,
        width=8,
        chosen=2,
        dense=(0,),
        own=28,
        shared=16,
    ),
}


@cache
def shared_mixture_of(family: str) -> LanguageModel:
    """A tiny random model of a family, made once, to be left as it is."""
    return LanguageModel(build(SHARED[family].config()), bos_tokenizer(), f"tiny-{family}")


@dataclass
class Neurons:
    """Of one text, block by block; columns are those that the documentation promises."""

    values: Tensor
    """m, `[L, T, columns]`, 0 where a token was not sent or a block has no neuron."""
    weights: Tensor
    """r; 0 there."""
    written: Tensor
    """What each block's MLP writes, `[L, T, d]`, float64."""
    logits: Tensor


def vectors(lm: LanguageModel, family: str, block: int) -> Tensor:
    """Value vectors of a block, `[columns, d]`, float64, row by row from the weights."""
    kind, mlp = SHARED[family], lm.model.model.layers[block].mlp
    rows = torch.zeros(columns_of(kind), lm.d_model, dtype=torch.float64)
    if block in kind.dense:
        for place in range(kind.own):
            rows[place] = mlp.down_proj.weight[:, place].detach().double()
        return rows
    for expert in range(kind.experts):
        for place in range(kind.width):
            rows[expert * kind.width + place] = mlp.experts.down_proj[expert, :, place].detach().double()
    for place in range(kind.shared):
        rows[kind.experts * kind.width + place] = _shared_mlp(mlp).down_proj.weight[:, place].detach().double()
    return rows


def columns_of(kind: Mixture) -> int:
    """Of a table: as many whole experts as the widest block needs."""
    widest = max(kind.experts * kind.width + kind.shared, kind.own)
    return kind.width * ((widest + kind.width - 1) // kind.width)


def _shared_mlp(mlp):
    return mlp.shared_expert if hasattr(mlp, "shared_expert") else mlp.shared_experts


def _gated(mlp, state: Tensor) -> Tensor:
    return silu(mlp.gate_proj.weight @ state) * (mlp.up_proj.weight @ state)


@torch.no_grad()
def naive(lm: LanguageModel, family: str, ids: list[int], gains: Tensor | None = None) -> Neurons:
    """Run one text, each block's MLP by loops over its tokens and neurons; gains `[L, columns]` multiply m."""
    kind = SHARED[family]
    shape = (lm.n_blocks, len(ids), columns_of(kind))
    values, weights = torch.zeros(shape), torch.zeros(shape)
    written = torch.zeros(lm.n_blocks, len(ids), 16, dtype=torch.float64)

    def one(block: int, token: int, columns: slice, m: Tensor, weight: Tensor | float) -> None:
        values[block, token, columns] = m if gains is None else m * gains[block, columns]
        weights[block, token, columns] = weight

    def forward(block: int, mlp):
        def run(states: Tensor) -> Tensor:
            rows = states.reshape(-1, 16)
            if block not in kind.dense:
                _, by, chosen = mlp.gate(states if family == "deepseek_v3" else rows)
            for token, state in enumerate(rows):
                if block in kind.dense:
                    one(block, token, slice(0, kind.own), _gated(mlp, state), 1.0)
                    continue
                for place, expert in enumerate(chosen[token].tolist()):
                    gate, up = (mlp.experts.gate_up_proj[expert] @ state).chunk(2)
                    columns = slice(expert * kind.width, (expert + 1) * kind.width)
                    one(block, token, columns, silu(gate) * up, by[token, place])
                whole = kind.experts * kind.width
                own = torch.sigmoid(mlp.shared_expert_gate.weight[0] @ state) if family == "qwen2_moe" else 1.0
                one(block, token, slice(whole, whole + kind.shared), _gated(_shared_mlp(mlp), state), own)
            written[block] = (values[block] * weights[block]).double() @ vectors(lm, family, block)
            return written[block].to(states.dtype).reshape(states.shape)

        return run

    layers = lm.model.model.layers
    for block, layer in enumerate(layers):
        layer.mlp.forward = forward(block, layer.mlp)
    try:
        logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for layer in layers:
            del layer.mlp.forward
    return Neurons(values, weights, written, logits)
