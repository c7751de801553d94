"""Tiny random mixtures that compute, weigh or project their experts in a way of their own, and naive runs of them.

A naive run takes from a model its weights: its routers and experts are written out here, token by token.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, silu
from transformers import (
    AXK1Config,
    AXK2Config,
    BeamConfig,
    DbrxConfig,
    Gemma4TextConfig,
    JetMoeConfig,
    LagunaConfig,
    MiniMaxM3VLTextConfig,
    PreTrainedConfig,
)

from dposcope.model.language_model import LanguageModel
from helpers.alternating import config as nemotron_h
from helpers.families import CONTEXT, VOCABULARY, bos_tokenizer, build

EXPERTS, WIDTH, CHOSEN, SHARED, DENSE = 4, 8, 2, 20, 24
_TOKENS = {"vocab_size": VOCABULARY, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 3}
_COMMON = {
    **_TOKENS,
    **{"hidden_size": 16, "num_hidden_layers": 3, "num_key_value_heads": 4, "max_position_embeddings": CONTEXT},
}
_LATENT_ATTENTION = {
    **{"intermediate_size": DENSE, "moe_intermediate_size": WIDTH, "n_routed_experts": EXPERTS, "n_shared_experts": 2},
    **{"num_experts_per_tok": CHOSEN, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1},
    **{"num_attention_heads": 4, "kv_lora_rank": 8, "q_lora_rank": 8, "v_head_dim": 8},
    **{"qk_rope_head_dim": 4, "qk_nope_head_dim": 4},
}

Weights = tuple[Tensor, Tensor | None, Tensor]
"""Of one MLP: gate and up, `[I, d]`, or one of them alone; value vectors `[I, d]`."""


class Family:
    """One family by hand; `whole` is the mixture of a block, or its dense MLP."""

    blocks, mlp = "model.layers", "mlp"
    mixers: tuple[str, ...] = ("self_attn.o_proj",)

    def config(self) -> PreTrainedConfig:
        """Of a tiny model."""
        raise NotImplementedError

    def route(self, whole, state: Tensor) -> list[tuple[int, Tensor]]:
        """Experts of a token and the weight of what each writes."""
        scores = torch.sigmoid(whole.gate.weight @ state)
        chosen = (scores + whole.gate.e_score_correction_bias).topk(CHOSEN).indices.tolist()
        return [(one, self.factor * scores[one] / scores[chosen].sum()) for one in chosen]

    factor = 1.0

    def expert(self, whole, number: int) -> Weights:
        """The weights of one."""
        gate, up = whole.experts.gate_up_proj[number].chunk(2)
        return gate, up, whole.experts.down_proj[number].T

    def dense(self, mlp) -> Weights:
        """Those of a dense or shared MLP."""
        return mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.T

    def act(self, gate: Tensor, up: Tensor | None) -> Tensor:
        """m."""
        assert up is not None
        return silu(gate) * up

    def reads(self, whole, state: Tensor) -> Tensor:
        """What the routed experts read."""
        return state

    def writes(self, whole, vectors: Tensor) -> Tensor:
        """Value vectors of routed experts in the stream."""
        return vectors

    def constant(self, whole) -> Tensor | float:
        """What a mixture adds to what its neurons write."""
        return 0.0

    def finish(self, whole, total: Tensor) -> Tensor:
        """What the module makes of the sum of what it writes."""
        return total

    def computing(self, lm: LanguageModel, block: int, made: Callable[[slice, int, Tensor, float], Tensor], without):
        """Modules of a block and what computes them: `made(columns, token, m, r)` tells of neurons and gives m with its
        gains, `without` takes a direction out of what is written."""
        whole, vectors = self.whole(lm, block), self.vectors(lm, block).float()

        def computed(states: Tensor) -> Tensor:
            rows = []
            for token, state in enumerate(states.reshape(-1, 16)):
                total = torch.zeros(16)
                for columns, m, weight in self.neurons(lm, block, state):
                    total = total + weight * (made(columns, token, m, float(weight)) @ vectors[columns])
                rows.append(total)
            constant = self.constant(whole) if self.is_mixture(lm, block) else 0.0
            return self.finish(whole, without(torch.stack(rows) + constant)).reshape(states.shape)

        return {whole: computed}

    # Of every family

    def whole(self, lm: LanguageModel, block: int) -> nn.Module:
        """The module that holds the MLP, or all of a mixture."""
        return lm.model.get_submodule(f"{self.blocks}.{block}.{self.mlp}")

    def is_mixture(self, lm: LanguageModel, block: int) -> bool:
        """Whether a block has experts."""
        return any("expert" in name or "output_linear" in name for name, _ in self.whole(lm, block).named_modules())

    def with_mlp(self, lm: LanguageModel) -> list[int]:
        """Blocks that have neurons."""
        return list(range(lm.n_blocks))

    def _parts(self, lm: LanguageModel, block: int) -> Iterator[tuple[int | None, int, Weights]]:
        """The routed expert, or None, the first column and the weights of each part of a block."""
        whole = self.whole(lm, block)
        if not self.is_mixture(lm, block):
            yield None, 0, self.dense(whole)
            return
        for number in range(EXPERTS):
            yield number, number * WIDTH, self.expert(whole, number)
        if hasattr(whole, "shared_experts"):
            yield None, EXPERTS * WIDTH, self.dense(whole.shared_experts)

    @torch.no_grad()
    def vectors(self, lm: LanguageModel, block: int) -> Tensor:
        """Value vectors, `[columns, d]`, float64."""
        rows = torch.zeros(lm.d_mlp, 16, dtype=torch.float64)
        for number, start, (_, _, own) in self._parts(lm, block):
            found = own if number is None else self.writes(self.whole(lm, block), own)
            for place, vector in enumerate(found):
                rows[start + place] = vector.double()
        return rows

    def neurons(self, lm: LanguageModel, block: int, state: Tensor) -> Iterator[tuple[slice, Tensor, Tensor | float]]:
        """Columns, activations and the weight r, of the neurons that a token gets."""
        whole = self.whole(lm, block)
        sent = dict(self.route(whole, state)) if self.is_mixture(lm, block) else {}
        for number, start, (gate, up, own) in self._parts(lm, block):
            if number is None or number in sent:
                read = state if number is None else self.reads(whole, state)
                m = self.act(gate @ read, None if up is None else up @ read)
                yield slice(start, start + len(own)), m, 1.0 if number is None else sent[number]


class _AXK1(Family):
    """A norm of what all experts of a block write together."""

    factor = 2.5

    def config(self) -> PreTrainedConfig:
        return AXK1Config(**_COMMON, **_LATENT_ATTENTION)

    def finish(self, whole, total: Tensor) -> Tensor:
        return whole.post_mlp_layernorm(total) if hasattr(whole, "post_mlp_layernorm") else total


class _AXK2(Family):
    """Norms with a small MLP in them, which writes as many numbers as the stream has."""

    factor = 2.5

    def config(self) -> PreTrainedConfig:
        return AXK2Config(**_COMMON, **_LATENT_ATTENTION, index_head_dim=8, index_n_heads=2, gated_norm_rank=4)


class _Beam(Family):
    """A factor on what experts write, and nothing beside them."""

    factor = 2.5

    def config(self) -> PreTrainedConfig:
        return BeamConfig(
            **{**_COMMON, "num_attention_heads": 4, "head_dim": 8, "intermediate_size": DENSE, "sliding_window": 5},
            **{"moe_intermediate_size": WIDTH, "num_experts": EXPERTS, "num_experts_per_tok": CHOSEN},
            **{"n_group": 1, "topk_group": 1, "routed_scaling_factor": self.factor},
            mlp_layer_types=["dense", "sparse", "sparse"],
        )


class _Laguna(Family):
    """A factor on what routed experts write, beside shared ones."""

    factor = 1.7

    def config(self) -> PreTrainedConfig:
        return LagunaConfig(
            **{**_COMMON, "num_attention_heads": 4, "head_dim": 8, "intermediate_size": DENSE, "sliding_window": 5},
            **{"moe_intermediate_size": WIDTH, "num_experts": EXPERTS, "num_experts_per_tok": CHOSEN},
            **{"shared_expert_intermediate_size": SHARED, "moe_routed_scaling_factor": self.factor},
        )


class _MiniMaxM3(Family):
    """A factor on what routed experts write, and attention to spans of places."""

    factor = 1.7

    def config(self) -> PreTrainedConfig:
        return MiniMaxM3VLTextConfig(
            **{**_COMMON, **_TOKENS, "num_attention_heads": 4, "head_dim": 8, "rotary_dim": 4},
            **{"intermediate_size": WIDTH, "dense_intermediate_size": DENSE, "shared_intermediate_size": SHARED},
            **{"num_local_experts": EXPERTS, "num_experts_per_tok": CHOSEN, "routed_scaling_factor": self.factor},
            mlp_layer_types=["dense", "sparse", "sparse"],
            layer_types=["full_attention", "minimax_m3_sparse", "minimax_m3_sparse"],
            **{"index_n_heads": 2, "index_head_dim": 8, "index_block_size": 4, "index_topk_blocks": 2},
            swiglu_limit=1.0,
        )

    def dense(self, mlp) -> Weights:
        return (*mlp.gate_up_proj.weight.chunk(2), mlp.down_proj.weight.T)

    def act(self, gate: Tensor, up: Tensor | None) -> Tensor:
        assert up is not None
        gate = gate.clamp(max=1.0)
        return gate * torch.sigmoid(1.702 * gate) * (up.clamp(-1.0, 1.0) + 1)


class _DBRX(Family):
    """Weights of all experts one below the other, and a loop over the experts."""

    blocks, mlp = "transformer.blocks", "ffn"
    mixers = ("norm_attn_norm.attn.out_proj",)

    def config(self) -> PreTrainedConfig:
        return DbrxConfig(
            **{**_TOKENS, "d_model": 16, "n_heads": 4, "n_layers": 3, "max_seq_len": CONTEXT},
            attn_config={"kv_n_heads": 2, "rope_theta": 10_000.0, "clip_qkv": 8.0},
            ffn_config={"ffn_hidden_size": WIDTH, "moe_num_experts": EXPERTS, "moe_top_k": CHOSEN},
        )

    def route(self, whole, state: Tensor) -> list[tuple[int, Tensor]]:
        shares = torch.softmax(whole.router.layer.weight @ state, 0)
        chosen = shares.topk(CHOSEN).indices.tolist()
        return [(one, shares[one] / shares[chosen].sum()) for one in chosen]

    def expert(self, whole, number: int) -> Weights:
        rows, glu = slice(number * WIDTH, (number + 1) * WIDTH), whole.experts.mlp
        return glu.w1[rows], glu.v1[rows], glu.w2[rows]


class _JetMoE(Family):
    """Attention is a mixture, too; one bias for all experts of a block."""

    mixers = ("self_attention",)

    def config(self) -> PreTrainedConfig:
        return JetMoeConfig(
            **_COMMON,
            **{"kv_channels": 8, "intermediate_size": WIDTH},
            **{"num_local_experts": EXPERTS, "num_experts_per_tok": CHOSEN},
        )

    def route(self, whole, state: Tensor) -> list[tuple[int, Tensor]]:
        logits, chosen = (whole.router.layer.weight @ state).topk(CHOSEN)
        return list(zip(chosen.tolist(), torch.softmax(logits, 0), strict=True))

    def expert(self, whole, number: int) -> Weights:
        gate, up = whole.input_linear.weight[number].chunk(2)
        return gate, up, whole.output_linear.weight[number].T

    def constant(self, whole) -> Tensor | float:
        return whole.bias


class _NemotronH(Family):
    """Experts in a space that is narrower than the stream, with one projection in and one out."""

    mlp = "mixer"
    mixers = ("mixer.o_proj", "mixer.out_proj")
    factor = 1.5

    def config(self) -> PreTrainedConfig:
        return nemotron_h("experts", moe_latent_size=8)

    def with_mlp(self, lm: LanguageModel) -> list[int]:
        return [1, 3, 4]

    def expert(self, whole, number: int) -> Weights:
        return whole.experts.up_proj[number], None, whole.experts.down_proj[number].T

    def dense(self, mlp) -> Weights:
        return mlp.up_proj.weight, None, mlp.down_proj.weight.T

    def act(self, gate: Tensor, up: Tensor | None) -> Tensor:
        return gate.clamp(min=0) ** 2

    def reads(self, whole, state: Tensor) -> Tensor:
        return whole.fc1_latent_proj.weight @ state

    def writes(self, whole, vectors: Tensor) -> Tensor:
        return vectors @ whole.fc2_latent_proj.weight.T


class _Gemma4(Family):
    """A dense MLP beside the experts, in the block itself; each has norms of its own."""

    def config(self) -> PreTrainedConfig:
        return Gemma4TextConfig(
            **{**_COMMON, "num_attention_heads": 4, "head_dim": 8, "intermediate_size": DENSE, "sliding_window": 5},
            **{"enable_moe_block": True, "num_experts": EXPERTS, "top_k_experts": CHOSEN},
            **{"moe_intermediate_size": WIDTH, "hidden_size_per_layer_input": 6, "num_kv_shared_layers": 0},
            vocab_size_per_layer_input=VOCABULARY,
            layer_types=["sliding_attention", "full_attention", "full_attention"],
            per_layer_config={},
        )

    def whole(self, lm: LanguageModel, block: int) -> nn.Module:
        return lm.model.model.layers[block]

    def act(self, gate: Tensor, up: Tensor | None) -> Tensor:
        assert up is not None
        return gelu(gate, approximate="tanh") * up

    def _parts(self, lm: LanguageModel, block: int) -> Iterator[tuple[int | None, int, Weights]]:
        yield from super()._parts(lm, block)
        yield None, EXPERTS * WIDTH, self.dense(self.whole(lm, block).mlp)

    def computing(self, lm: LanguageModel, block: int, made: Callable[[slice, int, Tensor, float], Tensor], without):
        own = self.whole(lm, block)

        def dense(states: Tensor) -> Tensor:
            gate, up, vectors = self.dense(own.mlp)
            columns = slice(EXPERTS * WIDTH, EXPERTS * WIDTH + DENSE)
            rows = [
                made(columns, token, self.act(gate @ state, up @ state), 1.0) @ vectors
                for token, state in enumerate(states.reshape(-1, 16))
            ]
            return without(torch.stack(rows)).reshape(states.shape)

        def experts(states: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
            rows = torch.zeros_like(states)
            for token, state in enumerate(states):
                for number, weight in zip(chosen[token].tolist(), weights[token], strict=True):
                    gate, up, vectors = self.expert(own, number)
                    columns = slice(number * WIDTH, (number + 1) * WIDTH)
                    m = made(columns, token, self.act(gate @ state, up @ state), float(weight))
                    rows[token] += weight * (m @ vectors)
            return without(rows)

        return {own.mlp: dense, own.experts: experts}


OWN: dict[str, Family] = {
    "gemma4_text": _Gemma4(),
    "axk1": _AXK1(),
    "axk2": _AXK2(),
    "beam": _Beam(),
    "laguna": _Laguna(),
    "minimax_m3_vl_text": _MiniMaxM3(),
    "dbrx": _DBRX(),
    "jetmoe": _JetMoE(),
    "nemotron_h": _NemotronH(),
}


@cache
def own_mixture(family: str) -> LanguageModel:
    """A tiny random model of a family, made once, to be left as it is."""
    return LanguageModel(build(OWN[family].config()), bos_tokenizer(), f"tiny-{family}")


@dataclass
class Run:
    """One text through a model; columns are those that the documentation promises."""

    values: Tensor
    """m, `[L, T, columns]`, 0 where a token was not sent."""
    weights: Tensor
    """r; 0 there."""
    written: Tensor
    """What each block's MLP writes, before a norm, `[L, T, d]`."""
    logits: Tensor


@torch.no_grad()
def run(
    lm: LanguageModel, family: str, ids: list[int], gains: Tensor | None = None, ablated: Tensor | None = None
) -> Run:
    """Run one text. Gains multiply m; of a direction, 0.7 is taken out of all that blocks write."""
    kind, shape = OWN[family], (lm.n_blocks, len(ids), lm.d_mlp)
    values, weights, written = torch.zeros(shape), torch.zeros(shape), torch.zeros(lm.n_blocks, len(ids), 16)

    def without(rows: Tensor) -> Tensor:
        if ablated is None:
            return rows
        unit = (ablated / ablated.norm()).to(rows.dtype)
        return rows - 0.7 * (rows @ unit).unsqueeze(-1) * unit

    def computing(block: int):
        def made(columns: slice, token: int, m: Tensor, weight: float) -> Tensor:
            values[block, token, columns] = m if gains is None else m * gains[block, columns]
            weights[block, token, columns] = weight
            return values[block, token, columns]

        def told(rows: Tensor) -> Tensor:
            left = without(rows)
            written[block] += left
            return left

        return kind.computing(lm, block, made, told)

    def mixed(_module: nn.Module, _args, output):
        return without(output) if isinstance(output, Tensor) else (without(output[0]), *output[1:])

    wholes = {module: does for block in kind.with_mlp(lm) for module, does in computing(block).items()}
    paths = dict(lm.model.named_modules())
    mixers = [f"{kind.blocks}.{block}.{path}" for block in range(lm.n_blocks) for path in kind.mixers]
    handles = [paths[path].register_forward_hook(mixed) for path in mixers if path in paths]
    for module, does in wholes.items():
        module.forward = does
    try:
        logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for handle in handles:
            handle.remove()
        for module in wholes:
            del module.forward
    return Run(values, weights, written, logits)
