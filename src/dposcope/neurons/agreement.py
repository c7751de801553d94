"""Agreement of two labellings of the same neurons: share of equal labels, its chance level, and Cohen's kappa."""

from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from dposcope.data.short import short_repr
from dposcope.neurons.contributions import Contributions


class Labels(StrEnum):
    """Which labels are compared. A neuron with cosine, m_i^pre or Δ_i of exactly 0 has a separate label."""

    MOVED = "eight groups"
    """TP, TN, AP or AN, and ↓ or ↑."""
    GROUP = "four groups"
    """TP, TN, AP or AN: the signs of cosine and m_i^pre."""
    EFFECT = "↓ or ↑"
    """The sign of Δ_i."""


class Among(StrEnum):
    """Which neurons count, and with which weight. The weight depends on both repetitions equally."""

    ALL = "all"
    """Every neuron, once."""
    WEIGHTED = "by |Δ|"
    """Every neuron, weighted by the mean of its two |Δ_i|."""
    MOST = "90 % of |Δ|"
    """The fewest neurons that carry 90 per cent of the sum of these means."""
    HALF = "50 % of |Δ|"
    """The fewest neurons that carry half of the sum."""
    CERTAIN = "sign certain"
    """Neurons with |Δ_i| > 1.96 standard errors: weight ½ for each of the two repetitions in which this holds."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of the labels of two repetitions."""

    labels: Labels
    among: Among
    neurons: int
    """Number of neurons with a weight above 0."""
    kept: float | None
    """Share of neurons with equal labels, weighted; None if no neuron counts."""
    chance: float | None
    """The share expected if both labellings were independent: Σ_k p_k q_k, with the shares p and q of the labels."""

    __repr__ = short_repr

    @property
    def kappa(self) -> float | None:
        """Cohen's κ = (kept − chance) / (1 − chance); None if there is only one label."""
        if self.kept is None or self.chance is None or self.chance >= 1:
            return None
        return (self.kept - self.chance) / (1 - self.chance)


def agreement(labels: Labels, among: Among, first: Tensor, second: Tensor, weights: Tensor) -> Agreement:
    """Agreement of two labellings (Cohen 1960), neurons weighted.

    Args:
        labels: named in the result.
        among: named in the result.
        first: label of each neuron, `[n]`, int64 from 0.
        second: the same by the other repetition.
        weights: how much each neuron counts, `[n]`, 0 and above.
    """
    whole = float(weights.sum())
    neurons = int((weights > 0).sum())
    if not whole > 0:
        return Agreement(labels, among, 0, None, None)
    kinds = int(torch.maximum(first.max(), second.max())) + 1
    table = torch.bincount(kinds * first + second, weights.double(), minlength=kinds * kinds).view(kinds, kinds) / whole
    chance = float(table.sum(0) @ table.sum(1))
    # With one label only, rounding may give a chance level close to but not 1, and κ would be noise.
    only_one = len(torch.cat([first[weights > 0], second[weights > 0]]).unique()) == 1
    return Agreement(labels, among, neurons, float(table.trace()), 1.0 if only_one else chance)


def labels_of(change: Contributions) -> dict[Labels, Tensor]:
    """Numbers of labels, `[n]`; the last number stands for the border."""
    tables = (change.cosine, change.before.mean, change.total)
    cosine, mean, total = (change.each(table).flatten() for table in tables)
    group = (2 * (cosine < 0).long() + (mean < 0).long()).where((cosine != 0) & (mean != 0), 4)
    effect = (total < 0).long().where(total != 0, 2)
    moved = (2 * group + effect).where((group < 4) & (effect < 2), 8)
    return {Labels.MOVED: moved, Labels.GROUP: group, Labels.EFFECT: effect}


def weights_of(one: Contributions, other: Contributions) -> dict[Among, Tensor]:
    """How much each neuron counts when two repetitions are compared, `[n]`, float64."""
    # Select by the mean of |Δ|, which does not depend on whether signs agree. The |Δ| of the mean would depend on it.
    size = one.each((one.total.abs() + other.total.abs()) / 2).flatten()
    certain = one.each(one.certain.mask.double() + other.certain.mask.double()).flatten() / 2
    return {
        Among.ALL: torch.ones_like(size),
        Among.WEIGHTED: size,
        Among.MOST: _carrying(size, 0.9),
        Among.HALF: _carrying(size, 0.5),
        Among.CERTAIN: certain,
    }


def _carrying(size: Tensor, share: float) -> Tensor:
    """1 for the fewest neurons that carry this share of the sum, else 0; `[n]`."""
    order = size.argsort(descending=True, stable=True)
    sums = size[order].cumsum(0)
    chosen = torch.zeros_like(size)
    if float(sums[-1]) > 0:
        chosen[order[: int((sums < share * sums[-1]).sum()) + 1]] = 1
    return chosen
