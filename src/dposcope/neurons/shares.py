"""Share of each group and each block in the change (paper 5; Tables 5, 13, 18; Figures 1, 2a, 5, 6a, 8).

↓ are the neurons with Δ_i > 0, ↑ those with Δ_i < 0. A share with a denominator of 0 is 0.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import polars as pl
from torch import Tensor

from dposcope.data.pandas_frames import ToPandas
from dposcope.data.short import short_repr
from dposcope.neurons.contributions import Contributions, Effect, MovedGroup, check_change
from dposcope.neurons.groups import Group
from dposcope.neurons.sets import NeuronSet


@dataclass(frozen=True)
class GroupShare:
    """One group, ↓ or ↑."""

    group: MovedGroup
    neurons: int
    """How many."""
    of_all: float
    """Its share of all neurons."""
    of_moved: float
    """Its share of all neurons that moved the same way, ↓ or ↑: Table 5."""
    contribution: float
    """Σ Δ_i over the group; negative for ↑."""
    of_contribution: float
    """Its share of Σ Δ_i over all neurons that moved the same way: Figures 2a and 6a."""
    certain: float
    """Share of its neurons whose sign is certain (see `Contributions.certain`)."""

    __repr__ = short_repr


@dataclass(frozen=True)
class GroupShares(ToPandas):
    """Sizes and weights of the groups, and their totals."""

    groups: tuple[GroupShare, ...]
    """TP↓, TN↓, AP↓, AN↓, TP↑, TN↑, AP↑, AN↑. Neurons whose cosine or m_i^pre is exactly 0 are in none of them,
    but are in the totals, which all shares divide by."""
    neurons: int
    """Of all blocks: L·d_mlp, unless blocks differ."""
    reducing: int
    """↓ neurons: "Sum" of Table 5."""
    increasing: int
    """↑ neurons. The rest did not move."""
    reduction: float
    """Σ Δ_i over ↓."""
    increase: float
    """Σ Δ_i over ↑, 0 or negative."""
    negative_before: float
    """Share of all neurons with m_i^pre < 0: Table 13."""

    __repr__ = short_repr

    @property
    def share_reducing(self) -> float:
        """Share of all neurons that reduce: Table 18."""
        return _share(self.reducing, self.neurons)

    @property
    def share_increasing(self) -> float:
        """Share of all neurons that increase."""
        return _share(self.increasing, self.neurons)

    @property
    def others(self) -> str:
        """What the neurons do that do not reduce: "the others more"; those that did not move are named."""
        still = self.neurons - self.reducing - self.increasing
        if not still:
            return "the others more"
        return f"{still:,} as much as before, the others more" if self.increasing else "the others as much as before"

    @property
    def net(self) -> float:
        """Σ Δ_i over all neurons."""
        return self.reduction + self.increase

    def to_polars(self) -> pl.DataFrame:
        """One row per group: group (`TP↓` …), neurons, of_all, of_moved, contribution, of_contribution, certain."""
        return pl.DataFrame([{**asdict(share), "group": str(share.group)} for share in self.groups])


def group_shares(c: Contributions) -> GroupShares:
    """Number of neurons of each group, and its share of the change (Tables 5, 13, 18; Figures 2a, 6a)."""
    check_change(c)
    total, certain = c.total, c.certain
    sides = {Effect.REDUCES: c.reduces, Effect.INCREASES: c.increases}
    sums = {effect: _sum(total, neurons) for effect, neurons in sides.items()}

    def share(group: MovedGroup, neurons: NeuronSet) -> GroupShare:
        contribution = _sum(total, neurons)
        return GroupShare(
            group=group,
            neurons=len(neurons),
            of_all=_share(len(neurons), c.neurons),
            of_moved=_share(len(neurons), len(sides[group.effect])),
            contribution=contribution,
            of_contribution=_share(contribution, sums[group.effect]),
            certain=_share(len(neurons & certain), len(neurons)),
        )

    return GroupShares(
        groups=tuple(share(group, neurons) for group, neurons in c.groups().items()),
        neurons=c.neurons,
        reducing=len(sides[Effect.REDUCES]),
        increasing=len(sides[Effect.INCREASES]),
        reduction=sums[Effect.REDUCES],
        increase=sums[Effect.INCREASES],
        negative_before=_share(int((c.before.mean < 0).sum()), c.neurons),
    )


@dataclass(frozen=True, eq=False)
class LayerSums(ToPandas):
    """Contributions added up block by block, each `[L]`, float64."""

    reduction: Tensor
    """Σ Δ_i over ↓: the blue dots of Figures 1 and 5."""
    increase: Tensor
    """Σ Δ_i over ↑, 0 or negative: the orange dots."""
    groups: Mapping[Group, Tensor]
    """Σ Δ_i over each of the four groups ↓: Figure 8."""
    without: frozenset[int] = frozenset()
    """Blocks without an MLP. Their sums are 0, of no neuron."""

    __repr__ = short_repr

    @property
    def blocks(self) -> list[int]:
        """The blocks that have neurons, in order."""
        return [block for block in range(len(self.reduction)) if block not in self.without]

    @property
    def net(self) -> Tensor:
        """Σ Δ_i over the whole block, `[L]`: how much less its MLP writes along W, biases and norms left out."""
        return self.reduction + self.increase

    def to_polars(self) -> pl.DataFrame:
        """One row per block that has neurons: block, reduction, increase, net, TP↓, TN↓, AP↓, AN↓."""
        columns = {"reduction": self.reduction, "increase": self.increase, "net": self.net}
        columns |= {f"{group}{Effect.REDUCES}": sums for group, sums in self.groups.items()}
        blocks = self.blocks
        return pl.DataFrame({"block": blocks, **{name: sums[blocks].numpy() for name, sums in columns.items()}})


def layer_sums(c: Contributions) -> LayerSums:
    """Summed reduction, increase and net change of every block (Figures 1 and 5), and by group ↓ (Figure 8)."""
    check_change(c)
    total = c.total
    groups = {
        moved.group: total.where(neurons.mask, 0.0).sum(1)
        for moved, neurons in c.groups().items()
        if moved.effect is Effect.REDUCES
    }
    without = frozenset(block for block, count in enumerate(c.everything.per_block) if not count)
    return LayerSums(total.clamp(min=0).sum(1), total.clamp(max=0).sum(1), groups, without)


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _sum(total: Tensor, neurons: NeuronSet) -> float:
    return float(total[neurons.mask].sum())
