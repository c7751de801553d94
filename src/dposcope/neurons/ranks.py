"""Neurons ranked by Δ_i: shares of groups among the first ranks, and activation shifts by rank (paper 5.2).

Only ↓ neurons have ranks: those with Δ_i > 0. The largest Δ_i has rank 0; ties go to the lower block, then index. A
rank range of the paper is used unchanged if the model has enough ↓ neurons, else as the same fraction of all neurons.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl
import torch
from torch import Tensor

from dposcope.data.given.numbers import whole
from dposcope.data.pandas_frames import ToPandas
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.neurons.contributions import Contributions, Effect, check_change, labels
from dposcope.neurons.groups import Group, group_sets


@dataclass(frozen=True)
class RankRange:
    """Ranks `start` … `stop` − 1 of a model with so many neurons."""

    start: int
    stop: int
    neurons: int
    """Of the model that the ranks belong to."""

    def __post_init__(self) -> None:
        """Refuse what is no range."""
        if not 0 <= self.start < self.stop <= self.neurons:
            raise DposcopeError(
                f"rank range {self.start}–{self.stop} of {self.neurons} neurons; give 0 ≤ start < stop ≤ neurons"
            )

    def __str__(self) -> str:
        """As the paper writes it: `2000–2500`."""
        return f"{self.start}–{self.stop}"

    def on(self, neurons: int, reducing: int) -> "RankRange":
        """The range on a model with so many neurons, `reducing` of them ↓.

        The same ranks if the model has enough ↓ neurons, else the same fraction of all neurons: at least one rank, and
        at most the last ↓ neuron's. Without any ↓ neuron, it is the first rank, which then has no neuron.
        """
        if self.stop <= reducing:
            return RankRange(self.start, self.stop, neurons)
        start = min(round(self.start * neurons / self.neurons), max(reducing - 1, 0))
        stop = max(min(round(self.stop * neurons / self.neurons), reducing), start + 1)
        return RankRange(start, stop, neurons)


LLAMA_NEURONS, GPT2_NEURONS = 458_752, 98_304
"""Of Llama-3.1-8B and GPT-2 medium (paper Table 8)."""

CUMULATIVE_RANGE = RankRange(0, 40_000, LLAMA_NEURONS)
"""Of Figures 2b and 6b."""

SHIFT_RANGES = (
    RankRange(2_000, 2_500, LLAMA_NEURONS),
    RankRange(0, 500, GPT2_NEURONS),
    RankRange(5_000, 5_500, GPT2_NEURONS),
)
"""Of Figures 2c and 6c, and of Figure 7 (a) and (b)."""

FEWEST_POINTS = 4
"""Of a curve: both its ends, evenly and by logarithm."""


@dataclass(frozen=True, eq=False)
class CumulativeReduction(ToPandas):
    """Share of the total reduction of the first r ranked ↓ neurons."""

    ranks: Tensor
    """r, `[n]`, int64, rising, from 1 to the number of ↓ neurons; n = 0 where no neuron reduces."""
    share: Tensor
    """Σ Δ_i of the first r over Σ Δ_i of all ↓ neurons, `[n]`, float64, in (0, 1]."""
    groups: Mapping[Group, Tensor]
    """The part of `share` that is each group's, `[n]`: together `share`, where no cosine or m_i^pre is 0."""
    paper_rank: int
    """The r that stands for the paper's 40,000; one of `ranks` where there are any, else 0."""

    __repr__ = short_repr

    def to_polars(self) -> pl.DataFrame:
        """One row per point: rank, share, TP↓, TN↓, AP↓, AN↓ (parts of the share)."""
        return pl.DataFrame(
            {
                "rank": self.ranks.numpy(),
                "share": self.share.numpy(),
                **{f"{group}{Effect.REDUCES}": share.numpy() for group, share in self.groups.items()},
            }
        )


def cumulative_reduction(c: Contributions, *, points: int = 200) -> CumulativeReduction:
    """Reduction added up over ranked neurons, overall and by group (Figures 2b and 6b).

    Exact at its points. Half of these are spaced evenly and half by logarithm, so the curve is smooth on either axis.

    Args:
        c: contributions.
        points: at most this many, 4 or more.

    Raises:
        DposcopeError: too few points.
    """
    check_change(c)
    if whole("points", points) < FEWEST_POINTS:
        raise DposcopeError(f"a curve cannot have {points} points; ask for {FEWEST_POINTS} or more, such as 200")
    order, groups = _ranked(c)
    n = len(order)
    if n == 0:
        none = torch.zeros(0, dtype=torch.float64)
        return CumulativeReduction(none.long(), none, dict.fromkeys(Group, none), 0)
    paper_rank = CUMULATIVE_RANGE.on(c.neurons, n).stop
    even = np.linspace(1, n, (points - 1) // 2)
    spread = np.geomspace(1, n, points - 1 - len(even))
    ranks = torch.from_numpy(np.unique(np.rint([*even, *spread, paper_rank]).astype(np.int64)))
    ordered = c.total.flatten()[order]
    summed = ordered.cumsum(0)
    parts = {group: ordered.where(members, 0.0).cumsum(0) for group, members in groups.items()}
    return CumulativeReduction(
        ranks=ranks,
        share=(summed / summed[-1])[ranks - 1],
        groups={group: (part / summed[-1])[ranks - 1] for group, part in parts.items()},
        paper_rank=paper_rank,
    )


@dataclass(frozen=True, eq=False)
class RangeShifts:
    """Activation shifts of the ↓ neurons of one rank range, the largest Δ_i first."""

    printed: RankRange
    """The requested range."""
    used: RankRange
    """What it is on this model; no neuron has these ranks where none reduces."""
    block: Tensor
    """`[n]`, int64."""
    index: Tensor
    """Within the block, `[n]`, int64."""
    shift: Tensor
    """m_i^pre − m_i^post, `[n]`, float64."""
    contribution: Tensor
    """Δ_i, `[n]`, float64, falling."""
    groups: Mapping[Group, Tensor]
    """Which of them are in each group, `[n]`, bool."""

    __repr__ = short_repr

    def of(self, group: Group) -> Tensor:
        """Shifts of one group's neurons, by rank."""
        return self.shift[self.groups[group]]


@dataclass(frozen=True, eq=False)
class RankRangeShifts(ToPandas):
    """Activation shifts by group, in several rank ranges."""

    ranges: tuple[RangeShifts, ...]

    __repr__ = short_repr

    def to_polars(self) -> pl.DataFrame:
        """One row per range and neuron: printed, used (`2000–2500`), rank, block, index, group, shift, contribution.

        `group` is null for a neuron in none.
        """
        return pl.concat(
            pl.DataFrame(
                {
                    "printed": pl.repeat(str(one.printed), len(one.shift), dtype=pl.String, eager=True),
                    "used": pl.repeat(str(one.used), len(one.shift), dtype=pl.String, eager=True),
                    "rank": one.used.start + np.arange(len(one.shift)),
                    "block": one.block.numpy(),
                    "index": one.index.numpy(),
                    "group": labels(one.groups),
                    "shift": one.shift.numpy(),
                    "contribution": one.contribution.numpy(),
                }
            )
            for one in self.ranges
        )


def rank_range_shifts(c: Contributions, ranges: Sequence[RankRange] = SHIFT_RANGES) -> RankRangeShifts:
    """Activation shifts by group of ↓ neurons ranked by Δ_i (Figures 2c, 6c and 7).

    Args:
        c: contributions.
        ranges: as printed; see `RankRange.on` for what they become on this model.

    Raises:
        DposcopeError: no range.
    """
    check_change(c)
    _check_ranges(ranges)
    if not ranges:
        raise DposcopeError("no rank range to read; give at least one, or leave ranges out for the paper's")
    order, groups = _ranked(c)
    shift, total, width = c.activation_shift.flatten(), c.total.flatten(), c.total.shape[1]

    def read(printed: RankRange) -> RangeShifts:
        used = printed.on(c.neurons, len(order))
        place = slice(used.start, used.stop)
        chosen = order[place]
        return RangeShifts(
            printed=printed,
            used=used,
            block=chosen // width,
            index=chosen % width,
            shift=shift[chosen],
            contribution=total[chosen],
            groups={group: members[place] for group, members in groups.items()},
        )

    return RankRangeShifts(tuple(read(printed) for printed in ranges))


def _check_ranges(given: object) -> None:
    several = cast(Sequence[object], given) if isinstance(given, list | tuple) else [None]
    if not all(isinstance(one, RankRange) for one in several):
        raise DposcopeError("ranges are no list of rank ranges; give some, or leave ranges out for the paper's")


def _ranked(c: Contributions) -> tuple[Tensor, dict[Group, Tensor]]:
    """Flat indices of ↓ neurons by rank, `[n]`, and which of these are in each group, `[n]`, bool."""
    total = c.total.flatten()
    members = (total > 0).nonzero().squeeze(1)
    order = members[total[members].argsort(descending=True, stable=True)]
    groups = group_sets(c.cosine, c.before.mean)
    return order, {group: neurons.mask.flatten()[order] for group, neurons in groups.items()}
