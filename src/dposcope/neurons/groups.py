"""The paper's four neuron groups, and the selection of a part of each for an edit.

T or A: the value vector points along or against the direction. P or N: the neuron's mean activation is positive or
negative (paper 5.2, 6.1).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import torch
from torch import Tensor

from dposcope.data.given.numbers import number, whole
from dposcope.data.short import short_repr
from dposcope.directions.direction import Direction, as_direction
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm, check_tensor
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.sets import NeuronSet


class Group(StrEnum):
    """A neuron's orientation and sign."""

    TP = "TP"
    """Toxicity-aligned, positive activation."""
    TN = "TN"
    """Toxicity-aligned, negative activation."""
    AP = "AP"
    """Anti-toxicity-aligned, positive activation."""
    AN = "AN"
    """Anti-toxicity-aligned, negative activation."""


@torch.no_grad()
def cosines(lm: LanguageModel, direction: Direction | Tensor) -> Tensor:
    """cos_i = v_i·W / (|v_i||W|) of every value vector, `[L, d_mlp]`, float64 on the CPU.

    A value vector of norm zero has cosine 0.

    Args:
        lm: the model.
        direction: W, or a vector `[d]`, of any norm above 0.

    Raises:
        DposcopeError: W has another width, or norm zero.
    """
    check_lm(lm)
    unit = as_direction(direction, lm).unit
    rows: list[Tensor] = []
    for block in range(lm.n_blocks):
        vectors = lm.value_vectors(block).double()
        norms = vectors.norm(dim=1)
        dots = vectors @ unit.to(vectors.device)
        rows.append(torch.where(norms > 0, dots / norms.clamp(min=torch.finfo(torch.float64).tiny), 0.0).cpu())
    return torch.stack(rows)


@torch.no_grad()
def projections(lm: LanguageModel, direction: Direction | Tensor) -> Tensor:
    """v_i·W / |W| of every value vector, `[L, d_mlp]`, float64 on the CPU: the weight of m_i in Eq. 2."""
    check_lm(lm)
    unit = as_direction(direction, lm).unit
    rows: list[Tensor] = []
    for block in range(lm.n_blocks):
        vectors = lm.value_vectors(block)
        rows.append((vectors.double() @ unit.to(vectors.device)).cpu())
    return torch.stack(rows)


def group_sets(cosine: Tensor, mean: Tensor) -> dict[Group, NeuronSet]:
    """The four groups; disjoint, and together all neurons but those with a cosine or mean of exactly 0.

    Args:
        cosine: cos_i, `[L, d_mlp]`.
        mean: m_i^pre, `[L, d_mlp]`.

    Raises:
        DposcopeError: they are no tensors, or of different shapes.
    """
    check_tensor("cosines", cosine)
    check_tensor("means", mean)
    if cosine.shape != mean.shape:
        raise DposcopeError(
            f"cosines of {list(cosine.shape)} neurons and means of {list(mean.shape)}; take both from one model"
        )
    return {
        Group.TP: NeuronSet((cosine > 0) & (mean > 0)),
        Group.TN: NeuronSet((cosine > 0) & (mean < 0)),
        Group.AP: NeuronSet((cosine < 0) & (mean > 0)),
        Group.AN: NeuronSet((cosine < 0) & (mean < 0)),
    }


Ranking = Literal["cosine", "signed", "activation", "reference", "random"]
"""Ranking within a group for an edit: by descending |cos| (our reading of the paper's "descending cosine
similarity"), by descending signed cosine, by ascending |m^pre| (paper Table 19), as the published code does, or at
random (a control: what does the choice within a group add?)."""

_RANKINGS: dict[str, Callable[[Tensor, Tensor, Group], Tensor]] = {
    "cosine": lambda cosine, _mean, _group: cosine.abs(),
    "signed": lambda cosine, _mean, _group: cosine,
    "activation": lambda _cosine, mean, _group: -mean.abs(),
    # The published code sorts TP and AN by descending |cos| but AP and TN by ascending.
    "reference": lambda cosine, _mean, group: cosine.abs() * (1 if group in (Group.TP, Group.AN) else -1),
}


@dataclass(frozen=True)
class Selection:
    """The neurons that an edit takes from each group."""

    sets: dict[Group, NeuronSet]
    """The chosen fraction per group."""
    sizes: dict[Group, int]
    """Neurons in each whole group, before choosing."""

    __repr__ = short_repr


def select_fraction(
    cosine: Tensor,
    mean: Tensor,
    *,
    beta: float,
    ranking: Ranking = "cosine",
    trim_percentile: float | None = None,
    seed: int = 0,
    here: Tensor | None = None,
) -> Selection:
    """The first ⌊β·n⌋ neurons of each group by a ranking (paper 6.1).

    Args:
        cosine: cos_i, `[L, d_mlp]`.
        mean: m_i^pre, `[L, d_mlp]`.
        beta: fraction of each group, in [0, 1].
        ranking: how to order a group.
        trim_percentile: leave out neurons whose m^pre lies above this percentile of all neurons; the
            published code does so for GPT-2, at 80, which leaves nothing of TP and AP there.
        seed: of the ranking `random`; no other uses it.
        here: which columns are neurons, `[L, d_mlp]`, bool, where blocks differ; None: all are.

    Raises:
        DposcopeError: β or the percentile is out of range, or the ranking unknown.
    """
    if not 0 <= number("beta", beta) <= 1:
        raise DposcopeError(f"beta {beta} is outside [0, 1]; it is the fraction of each neuron group to edit")
    if ranking != "random" and ranking not in _RANKINGS:
        raise DposcopeError(f"no ranking {ranking!r}; choose from {', '.join([*_RANKINGS, 'random'])}")
    groups = group_sets(cosine, mean)
    if trim_percentile is not None:
        if not 0 <= number("trim_percentile", trim_percentile) <= 100:
            raise DposcopeError(f"percentile {trim_percentile} is outside [0, 100]")
        limit = _percentile(mean if here is None else mean[here], trim_percentile)
        groups = {group: NeuronSet(neurons.mask & (mean <= limit)) for group, neurons in groups.items()}
    if ranking == "random":
        drawn = torch.rand(cosine.shape, generator=torch.Generator().manual_seed(whole("seed", seed))).to(cosine.device)
        score = lambda *_: drawn  # noqa: E731
    else:
        score = _RANKINGS[ranking]
    chosen = {
        group: neurons.top(math.floor(beta * len(neurons) + 1e-9), by=score(cosine, mean, group))
        for group, neurons in groups.items()
    }
    return Selection(chosen, {group: len(neurons) for group, neurons in groups.items()})


def _percentile(values: Tensor, percent: float) -> Tensor:
    # torch.quantile refuses more than 16 million values; a sort does not.
    ordered = values.double().flatten().sort().values
    place = percent / 100 * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
