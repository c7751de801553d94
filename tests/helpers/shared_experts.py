"""Tiny random mixtures with shared experts and dense blocks, and their neurons computed token by token.

The naive run takes from a model its weights and what its routers choose, and nothing else.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import silu
from transformers import (
    DeepseekV3Config,
    GraniteMoeHybridConfig,
    GraniteMoeSharedConfig,
    GraniteMoeSWAConfig,
    JambaConfig,
    Lfm2MoeConfig,
    PreTrainedConfig,
    Qwen2MoeConfig,
)

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
_STATE_SPACE = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 8}


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
    mlp: str = "mlp"
    """Where a block has its mixture, or its dense MLP."""
    beside: str | None = None
    """Where a block has its shared experts, unless it is in the mixture."""
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    """Of a dense MLP."""
    seed: int = 0

    def whole(self, lm: LanguageModel, block: int) -> nn.Module:
        """The mixture of a block, or its dense MLP."""
        return lm.model.model.layers[block].get_submodule(self.mlp)

    def shared_mlp(self, lm: LanguageModel, block: int):
        """The shared experts of a block."""
        if self.beside is not None:
            return lm.model.model.layers[block].get_submodule(self.beside)
        mlp = self.whole(lm, block)
        return mlp.shared_expert if hasattr(mlp, "shared_expert") else mlp.shared_experts

    def parts(self, mlp: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
        """Weights of a dense or shared MLP: gate, up and down."""
        if self.beside is not None:
            return (*mlp.input_linear.weight.chunk(2), mlp.output_linear.weight)
        return tuple(mlp.get_submodule(name).weight for name in self.names)

    def change_up(self, mlp: nn.Module, factor: float) -> None:
        """Multiply what a shared MLP's neurons are made of."""
        with torch.no_grad():
            self.parts(mlp)[1].mul_(factor)


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
    # State spaces in place of attention; the shared experts stand beside the mixture.
    "granitemoehybrid": Mixture(
        lambda: GraniteMoeHybridConfig(
            **_COMMON,
            **_STATE_SPACE,
            intermediate_size=8,
            num_local_experts=4,
            num_experts_per_tok=2,
            shared_intermediate_size=20,
            layer_types=["linear_attention", "full_attention", "linear_attention"],
            residual_multiplier=0.4,
            logits_scaling=4.0,
        ),
        experts=4,
        width=8,
        chosen=2,
        shared=20,
        mlp="block_sparse_moe",
        beside="shared_mlp",
    ),
    # The same with attention in every block.
    **{
        name: Mixture(
            lambda kind=kind: kind(
                **_COMMON,
                intermediate_size=8,
                num_local_experts=4,
                num_experts_per_tok=2,
                shared_intermediate_size=20,
                residual_multiplier=0.4,
                logits_scaling=4.0,
            ),
            experts=4,
            width=8,
            chosen=2,
            shared=20,
            mlp="block_sparse_moe",
            beside="shared_mlp",
        )
        for name, kind in (("granitemoeshared", GraniteMoeSharedConfig), ("granitemoe_swa", GraniteMoeSWAConfig))
    },
    # Every second block is dense, as wide as one expert; nothing is shared.
    "jamba": Mixture(
        lambda: JambaConfig(
            **_COMMON,
            intermediate_size=8,
            num_experts=4,
            num_experts_per_tok=2,
            mamba_d_state=4,
            mamba_dt_rank=3,
            attn_layer_period=3,
            attn_layer_offset=1,
            use_mamba_kernels=False,
        ),
        experts=4,
        width=8,
        chosen=2,
        dense=(0, 2),
        own=8,
        mlp="feed_forward",
    ),
    # Convolutions in place of attention, a dense first block.
    "lfm2_moe": Mixture(
        lambda: Lfm2MoeConfig(
            **_COMMON,
            intermediate_size=28,
            moe_intermediate_size=8,
            num_experts=4,
            num_experts_per_tok=2,
            num_dense_layers=1,
            layer_types=["conv", "full_attention", "conv"],
        ),
        experts=4,
        width=8,
        chosen=2,
        dense=(0,),
        own=28,
        mlp="feed_forward",
        names=("w1", "w3", "w2"),
    ),
}


@cache
def shared_mixture_of(family: str) -> LanguageModel:
    """A tiny random model of a family, made once, to be left as it is."""
    return LanguageModel(build(SHARED[family].config(), seed=SHARED[family].seed), bos_tokenizer(), f"tiny-{family}")


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
    kind, mlp = SHARED[family], SHARED[family].whole(lm, block)
    rows = torch.zeros(columns_of(kind), lm.d_model, dtype=torch.float64)
    if block in kind.dense:
        for place in range(kind.own):
            rows[place] = kind.parts(mlp)[2][:, place].detach().double()
        return rows
    for expert in range(kind.experts):
        for place in range(kind.width):
            rows[expert * kind.width + place] = mlp.experts.down_proj[expert, :, place].detach().double()
    for place in range(kind.shared):
        down = kind.parts(kind.shared_mlp(lm, block))[2]
        rows[kind.experts * kind.width + place] = down[:, place].detach().double()
    return rows


def columns_of(kind: Mixture) -> int:
    """Of a table: as many whole experts as the widest block needs."""
    widest = max(kind.experts * kind.width + kind.shared, kind.own)
    return kind.width * ((widest + kind.width - 1) // kind.width)


def _gated(weights: tuple[Tensor, Tensor, Tensor], state: Tensor) -> Tensor:
    gate, up, _ = weights
    return silu(gate @ state) * (up @ state)


def _routes(family: str, mlp, states: Tensor) -> tuple[Tensor, Tensor]:
    """The router's weights and the experts of each token, `[T, chosen]`, by the model's own router."""
    rows = states.reshape(-1, 16)
    if family == "deepseek_v3":
        return mlp.gate(states)[1:]
    if family == "lfm2_moe":
        return mlp.gate(rows, mlp.expert_bias)[1:]
    return (mlp.router if hasattr(mlp, "router") else mlp.gate)(rows)[1:]


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

    whole = slice(kind.experts * kind.width, kind.experts * kind.width + kind.shared)

    def add_shared(block: int, rows: Tensor) -> None:
        for token, state in enumerate(rows):
            own = torch.sigmoid(kind.whole(lm, block).shared_expert_gate.weight[0] @ state) if gated else 1.0
            one(block, token, whole, _gated(kind.parts(kind.shared_mlp(lm, block)), state), own)

    def routed(block: int):
        def run(states: Tensor) -> Tensor:
            mlp, rows = kind.whole(lm, block), states.reshape(-1, 16)
            if block in kind.dense:
                for token, state in enumerate(rows):
                    one(block, token, slice(0, kind.own), _gated(kind.parts(mlp), state), 1.0)
            else:
                by, chosen = _routes(family, mlp, states)
                for token, state in enumerate(rows):
                    for place, expert in enumerate(chosen[token].tolist()):
                        gate, up = (mlp.experts.gate_up_proj[expert] @ state).chunk(2)
                        columns = slice(expert * kind.width, (expert + 1) * kind.width)
                        one(block, token, columns, silu(gate) * up, by[token, place])
                if kind.shared:
                    add_shared(block, rows)
            written[block] = (values[block] * weights[block]).double() @ vectors(lm, family, block)
            return written[block].to(states.dtype).reshape(states.shape)

        return run

    gated = family == "qwen2_moe"
    modules = {kind.whole(lm, block): routed(block) for block in range(lm.n_blocks)}
    if kind.beside is not None:  # the mixture has written for both
        modules |= {kind.shared_mlp(lm, block): torch.zeros_like for block in range(lm.n_blocks)}
    for module, run in modules.items():
        module.forward = run
    try:
        logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for module in modules:
            del module.forward
    return Neurons(values, weights, written, logits)
