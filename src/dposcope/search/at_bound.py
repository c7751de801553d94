"""The strength at which one kind of edit reaches a bound; kinds of edit are compared there.

The first guess of a strength may cost too much, and half of it may cost much less than the bound. The best strength
lies between. The cost of a small edit grows about as a power of its strength, so two trials are enough to estimate
where the cost reaches the bound. A cheap edit may still fail the bound on texts at every strength tried. Then the
strength is estimated at which its texts just pass.
"""

import math
from collections.abc import Collection, Mapping, Sequence

from dposcope.search.family import MOST_ABLATION, NO_GAINS, Family, Point
from dposcope.search.trials import TextBound, Trial

_AIM = 0.9
"""Aim at this share of each bound, because both are only estimated."""
_SQUARE = 2.0
"""Power of the strength that cost grows with, if there is one trial only: the KL of a small change is quadratic."""
_LEAST_POWER, _MOST_POWER = 1.0, 4.0
_FURTHEST = 4.0
"""The result is at most this many times the likely strength, and at least its inverse."""
_SAME = 0.02
"""Two strengths whose relative difference is smaller count as equal."""


def at_the_bound(likely: Point, tried: Sequence[Trial], family: Family, text_bound: TextBound) -> Point | None:
    """Scale the likely point until it reaches the bound on cost or the bound on texts, whichever comes first.

    Args:
        likely: one kind of edit at its first guess of a strength: gains without tilt and ablation, or an ablation only.
        tried: trials. Only those count whose point is the likely point times a factor.
        family: gives the largest strength.
        text_bound: the bound on texts.

    Returns:
        The scaled point. None if no trial measured its cost, or if a trial was at this point already.
    """
    line = _line(likely, tried)
    costs = {factor: cost for factor, trial in line.items() if 0 < (cost := 1 + trial.excess) < math.inf}
    if not costs:
        return None
    factor = min(_by_cost(costs), _most(likely, family), _by_texts(line, text_bound))
    return None if _known(factor, costs) else likely.scaled(factor)


def where_texts_pass(likely: Point, tried: Sequence[Trial], text_bound: TextBound) -> Point | None:
    """Scale the likely point down to where its texts just pass, if they were measured and did not.

    The arguments are those of `at_the_bound`.

    Returns:
        The scaled point. None if no texts failed, or if a trial was at this point already.
    """
    line = _line(likely, tried)
    factor = _by_texts(line, text_bound)
    return None if math.isinf(factor) or _known(factor, line) else likely.scaled(factor)


def _line(likely: Point, tried: Sequence[Trial]) -> dict[float, Trial]:
    """Factor → the trial of the likely point times it."""
    return {factor: trial for trial in tried if (factor := _factor(trial.point, likely))}


def _known(factor: float, tried: Collection[float]) -> bool:
    """Whether a factor changes nothing, or was tried."""
    return factor == 0 or any(abs(factor / one - 1) < _SAME for one in tried)


def _by_cost(costs: Mapping[float, float]) -> float:
    """Factor at which the cost reaches the aim. `costs`: factor → cost as a share of the bound."""
    nearest = min(costs, key=lambda factor: abs(math.log(costs[factor] / _AIM)))
    power = _SQUARE
    if len(costs) > 1:
        low, high = min(costs), max(costs)
        slope = math.log(costs[high] / costs[low]) / math.log(high / low)
        power = min(max(slope, _LEAST_POWER), _MOST_POWER)
    return min(max(nearest * (_AIM / costs[nearest]) ** (1 / power), 1 / _FURTHEST), _FURTHEST)


def _by_texts(line: Mapping[float, Trial], text_bound: TextBound) -> float:
    """Factor at which texts just pass their bound; infinite if they pass at every factor that has texts.

    Starts at the largest factor up to which all texts pass (at least 0, the plain model), and interpolates linearly
    to the next factor.
    """
    strongest, at_strongest = 0.0, text_bound.excess(text_bound.plain)
    for factor in sorted(line):
        written = line[factor].written
        if written is None:
            continue
        excess = text_bound.excess(written)
        if text_bound.allows(written):
            strongest, at_strongest = factor, excess
            continue
        crossings = [
            at_strongest[name] / (at_strongest[name] - excess[name]) for name in excess if excess[name] > 0
        ]  # at_strongest ≤ 0 < excess
        return strongest + _AIM * min(crossings) * (factor - strongest)
    return math.inf


def _factor(point: Point, likely: Point) -> float | None:
    """The number that `likely` must be multiplied by to get `point`; None if there is no such number."""
    if point.source != likely.source or point.tilt != likely.tilt:
        return None
    if likely.source == NO_GAINS:
        return point.ablate / likely.ablate
    return point.strength / likely.strength if point.ablate == 0 else None


def _most(likely: Point, family: Family) -> float:
    if likely.source == NO_GAINS:
        return MOST_ABLATION / likely.ablate
    return family.sources[likely.source].most / likely.strength
