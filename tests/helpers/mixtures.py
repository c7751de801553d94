"""Tiny random mixtures of experts: the networks computed token by token and expert by expert.

The naive run takes nothing from a model's own mixtures but their weights.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import silu

from dposcope.model.language_model import LanguageModel
from helpers.families import tiny


@cache
def shared_mixture(family: str) -> LanguageModel:
    """A tiny random mixture of a family, made once, to be left as it is."""
    return tiny(family)


def vectors_of(lm: LanguageModel, block: int, expert: int) -> Tensor:
    """Value vectors of an expert, `[I, d]`, float64, the orientation written out by hand."""
    down = lm.model.model.layers[block].mlp.experts.down_proj[expert].detach().double()
    return down if lm.model.config.model_type == "gpt_oss" else down.T


Rule = Callable[[int, int, int, Tensor], Tensor]
"""(block, token, expert, activations `[I]`) → their replacement."""


@dataclass
class Run:
    """One text through the network; keys are (block, token, expert)."""

    activations: dict[tuple[int, int, int], Tensor] = field(default_factory=dict)
    """`[I]`, of the pairs of a token and an expert that it was sent to."""
    weights: dict[tuple[int, int, int], float] = field(default_factory=dict)
    """r."""
    written: dict[tuple[int, int], Tensor] = field(default_factory=dict)
    """(block, token) → what the experts wrote, `[d]`."""
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    """`[T, vocabulary]`."""


def _routes(kind: str, mlp, config, state: Tensor) -> list[tuple[int, Tensor]]:
    """Experts of one token and the router's weights."""
    k = config.num_experts_per_tok
    if kind == "gpt_oss":
        scores = mlp.router.weight @ state + mlp.router.bias
        chosen = sorted(range(len(scores)), key=lambda e: -float(scores[e]))[:k]
        weights = torch.softmax(scores[chosen], 0)
        return list(zip(chosen, weights, strict=True))
    probabilities = torch.softmax(mlp.gate.weight @ state, 0)
    chosen = sorted(range(len(probabilities)), key=lambda e: -float(probabilities[e]))[:k]
    weights = probabilities[chosen]
    if kind == "mixtral" or config.to_dict().get("norm_topk_prob"):
        weights = weights / weights.sum()
    return list(zip(chosen, weights, strict=True))


def _activation(kind: str, experts, expert: int, state: Tensor) -> Tensor:
    if kind == "gpt_oss":
        both = state @ experts.gate_up_proj[expert] + experts.gate_up_proj_bias[expert]
        gate, up = both[0::2].clamp(max=7.0), both[1::2].clamp(-7.0, 7.0)
        return (up + 1) * gate * torch.sigmoid(1.702 * gate)
    both = experts.gate_up_proj[expert] @ state
    half = len(both) // 2
    return silu(both[:half]) * both[half:]


def _output(kind: str, experts, expert: int, activation: Tensor) -> Tensor:
    if kind == "gpt_oss":
        return activation @ experts.down_proj[expert] + experts.down_proj_bias[expert]
    return experts.down_proj[expert] @ activation


@torch.no_grad()
def run(lm: LanguageModel, ids: list[int], rule: Rule | None = None) -> Run:
    """Run one text, without padding or cache; a rule replaces activations."""
    found, kind, config = Run(), lm.model.config.model_type, lm.model.config
    with ExitStack() as stack:
        for block, layer in enumerate(lm.model.model.layers):

            def naive(states: Tensor, block: int = block, mlp=layer.mlp):
                rows = []
                for token, state in enumerate(states[0]):
                    total = torch.zeros_like(state)
                    for expert, weight in _routes(kind, mlp, config, state):
                        m = _activation(kind, mlp.experts, expert, state)
                        if rule is not None:
                            m = rule(block, token, expert, m)
                        found.activations[block, token, expert] = m
                        found.weights[block, token, expert] = float(weight)
                        total = total + weight * _output(kind, mlp.experts, expert, m)
                    found.written[block, token] = total
                    rows.append(total)
                result = torch.stack(rows).unsqueeze(0)
                return (result, None) if kind == "gpt_oss" else result

            layer.mlp.forward = naive
            stack.callback(layer.mlp.__delattr__, "forward")
        found.logits = lm.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return found


def greedy(lm: LanguageModel, prompt: list[int], new_tokens: int, rule: Rule | None = None) -> list[int]:
    """The greedy continuation of one prompt, every step a whole naive run; its end-of-text token included."""
    ids = list(prompt)
    for _ in range(new_tokens):
        ids.append(int(run(lm, ids, rule).logits[-1].argmax()))
        if ids[-1] in lm.model.generation_config.eos_token_id:
            break
    return ids[len(prompt) :]


def table(lm: LanguageModel, found: Run, block: int, tokens: int, *, weighted: bool = False) -> Tensor:
    """Activations of a block as `[T, d_mlp]`, 0 where a token was not sent to an expert; or r m."""
    width = lm.experts.width
    rows = torch.zeros(tokens, lm.d_mlp)
    for (where, token, expert), m in found.activations.items():
        if where == block:
            weight = found.weights[where, token, expert] if weighted else 1.0
            rows[token, expert * width : (expert + 1) * width] = weight * m
    return rows


@torch.no_grad()
def activations_for(lm: LanguageModel, block: int, states: Tensor) -> Tensor:
    """Activations of a block's neurons for what its mixture reads, `[T, d]`, as `[T, d_mlp]`."""
    mlp, width, config = lm.model.model.layers[block].mlp, lm.experts.width, lm.model.config
    rows = torch.zeros(len(states), lm.d_mlp)
    for token, state in enumerate(states):
        for expert, _ in _routes(config.model_type, mlp, config, state):
            here = slice(expert * width, (expert + 1) * width)
            rows[token, here] = _activation(config.model_type, mlp.experts, expert, state)
    return rows


@torch.no_grad()
def weights_for(lm: LanguageModel, block: int, states: Tensor) -> dict[tuple[int, int], float]:
    """(Token, expert) → the router's weight, for what a block's mixture reads, `[T, d]`."""
    config = lm.model.config
    return {
        (token, expert): float(weight)
        for token, state in enumerate(states)
        for expert, weight in _routes(config.model_type, lm.model.model.layers[block].mlp, config, state)
    }


@torch.no_grad()
def inputs_of(lm: LanguageModel, ids: list[int]) -> list[Tensor]:
    """What each block's mixture reads in a plain pass, `[T, d]`."""
    read: list[Tensor] = []
    handles = [
        layer.mlp.register_forward_pre_hook(lambda _module, args: read.append(args[0][0].clone()))
        for layer in lm.model.model.layers
    ]
    lm.model(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return read
