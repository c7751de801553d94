"""Does a change move neurons the way the paper's rule says, and the way that another change moves them?

A neuron's *reduction* is the part of Eq. 2 that its activation makes, (m_i^pre − m_i^after) v_i·W/|W|: above 0 the
neuron lost toxicity. The rule (paper 6.1) moves every neuron of every group so. Intervals resample blocks, since
neurons of one block answer to one another.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from dposcope.evaluation.statistics.comparisons import bootstrap_ratio
from dposcope.evaluation.statistics.intervals import Estimate
from dposcope.neurons.groups import Group, group_sets

ALL = "all"


@dataclass(frozen=True)
class Followed:
    """Of one group."""

    neurons: int
    """That the change moved at all."""
    share: Estimate
    """Of them, those that lost toxicity; chance is 0.5."""
    weighted: Estimate
    """The same, each neuron counted by the size of its reduction."""


def members(cosine: Tensor, mean: Tensor) -> dict[str, Tensor]:
    """All neurons and the four groups, masks `[L, d_mlp]`."""
    groups: Mapping[Group, object] = group_sets(cosine, mean)
    return {ALL: torch.ones_like(cosine, dtype=torch.bool)} | {str(name): found.mask for name, found in groups.items()}


def followed(reduction: Tensor, which: Tensor) -> Followed:
    """How many neurons of a group a change moved as the rule says.

    Args:
        reduction: `[L, d_mlp]`.
        which: the group's mask, `[L, d_mlp]`.
    """
    moved = which & (reduction != 0)
    size = torch.where(moved, reduction.abs(), 0.0).sum(1).double()
    right = moved & (reduction > 0)
    # A block without a neuron of the group has no ratio of its own, and none to give.
    here = size > 0
    count = bootstrap_ratio(right.sum(1)[here].double().numpy(), moved.sum(1)[here].double().numpy())
    weight = bootstrap_ratio(torch.where(right, reduction, 0.0).sum(1)[here].numpy(), size[here].numpy())
    return Followed(int(moved.sum()), count, weight)


def rank_correlation(one: Tensor, other: Tensor, which: Tensor, *, resamples: int = 2_000, seed: int = 0) -> Estimate:
    """Spearman's ρ of two changes over the neurons of a group, its interval over resampled blocks.

    Ranks are those among all the group's neurons, also in a resample.

    Args:
        one: `[L, d_mlp]`.
        other: `[L, d_mlp]`.
        which: the group's mask, `[L, d_mlp]`.
        resamples: of blocks.
        seed: of the resamples.
    """
    block = which.nonzero()[:, 0].numpy()
    x, y = (_centred(rankdata(table[which].double().numpy())) for table in (one, other))
    count = len(which)
    sums = np.stack(
        [np.bincount(block, weights=part, minlength=count) for part in (np.ones_like(x), x, y, x * x, y * y, x * y)]
    )
    stream = np.random.default_rng(seed)
    drawn = stream.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    low, high = np.nanquantile(_pearson(sums @ drawn.T), [0.025, 0.975])
    return Estimate(float(_pearson(sums.sum(1))), float(low), float(high), len(x))


def _centred(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    return (ranks - ranks.mean()) / len(ranks)


def _pearson(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    n, x, y, xx, yy, xy = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        return (xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n))
