"""Where a kind of edit does as much as it may: the strength at which kinds are best compared.

A likely strength may lie beyond the bound on cost, and half of it far inside; the best edit of the kind lies between.
Costs of small edits grow about as a power of the strength, so two trials tell where that is. What is cheap may still
say too little at every strength that was tried; then it lies where texts say just enough, between there and none.
"""

import math
from collections.abc import Mapping, Sequence

from dposcope.search.family import MOST_ABLATION, NO_GAINS, Family, Point
from dposcope.search.trials import Floor, Trial

_AIM = 0.9
"""Share of the bound, and of the distance to the floor of variety, that is aimed at: neither is known exactly."""
_SQUARE = 2.0
"""The power of strength that cost grows with, where one trial cannot tell: KL of a small change is quadratic."""
_LEAST_POWER, _MOST_POWER = 1.0, 4.0
_FURTHEST = 4.0
"""Times the likely strength, or one part in so many of it."""
_SAME = 0.02
"""Strengths that differ by less are one and the same."""


def at_the_bound(likely: Point, tried: Sequence[Trial], family: Family, floor: Floor) -> Point | None:
    """The likely point, as much weaker or stronger as the bound on cost and the floor of texts ask.

    Args:
        likely: a kind of edit at a likely strength; of gains without tilt and ablation, or of an ablation alone.
        tried: trials, of which those count that are this point times a factor.
        family: how strong its members may be.
        floor: what texts must say.

    Returns:
        The point; None where no trial tells its cost, or one stood there already.
    """
    line = {factor: trial for trial in tried if (factor := _factor(trial.point, likely))}
    costs = {factor: cost for factor, trial in line.items() if 0 < (cost := 1 + trial.excess) < math.inf}
    if not costs:
        return None
    factor = min(_by_cost(costs), _most(likely, family), _by_texts(line, floor))
    if factor == 0 or any(abs(factor / one - 1) < _SAME for one in costs):
        return None
    return likely.scaled(factor)


def _by_cost(costs: Mapping[float, float]) -> float:
    """Where the cost, a share of the bound, meets the aim."""
    nearest = min(costs, key=lambda factor: abs(math.log(costs[factor] / _AIM)))
    power = _SQUARE
    if len(costs) > 1:
        low, high = min(costs), max(costs)
        slope = math.log(costs[high] / costs[low]) / math.log(high / low)
        power = min(max(slope, _LEAST_POWER), _MOST_POWER)
    return min(max(nearest * (_AIM / costs[nearest]) ** (1 / power), 1 / _FURTHEST), _FURTHEST)


def _by_texts(line: Mapping[float, Trial], floor: Floor) -> float:
    """Where texts say just enough; infinite where they do at every strength that wrote any.

    Between the strongest factor below which all do (0, the plain model, at least) and the next, excesses are straight.
    """
    strongest, at_strongest = 0.0, floor.excess(floor.plain)
    for factor in sorted(line):
        written = line[factor].written
        if written is None:
            continue
        excess = floor.excess(written)
        if floor.holds(written):
            strongest, at_strongest = factor, excess
            continue
        crossings = [
            at_strongest[name] / (at_strongest[name] - excess[name]) for name in excess if excess[name] > 0
        ]  # at_strongest ≤ 0 < excess
        return strongest + _AIM * min(crossings) * (factor - strongest)
    return math.inf


def _factor(point: Point, likely: Point) -> float | None:
    """By what the likely point is multiplied to give the other; None where nothing does."""
    if point.source != likely.source or point.tilt != likely.tilt:
        return None
    if likely.source == NO_GAINS:
        return point.ablate / likely.ablate
    return point.strength / likely.strength if point.ablate == 0 else None


def _most(likely: Point, family: Family) -> float:
    if likely.source == NO_GAINS:
        return MOST_ABLATION / likely.ablate
    return family.sources[likely.source].most / likely.strength
