"""Where a kind of edit costs as much as it may: the strength at which kinds are best compared.

A likely strength may lie beyond the bound, and half of it far inside; the best edit of the kind lies between. Costs of
small edits grow about as a power of the strength, so two trials tell where that is.
"""

import math
from collections.abc import Sequence

from dposcope.search.family import MOST_ABLATION, NO_GAINS, Family, Point
from dposcope.search.trials import Trial

_AIM = 0.9
"""Of the bound: inside it, as two costs with powers of their own make but nearly one power."""
_SQUARE = 2.0
"""The power where one trial cannot tell it: KL of a small change is quadratic in it."""
_LEAST_POWER, _MOST_POWER = 1.0, 4.0
_FURTHEST = 4.0
"""Times the likely strength, or one part in so many of it."""
_SAME = 0.02
"""Strengths that differ by less are one and the same."""


def at_the_bound(likely: Point, tried: Sequence[Trial], family: Family) -> Point | None:
    """The likely point, as much weaker or stronger as the bound on cost asks.

    Args:
        likely: a kind of edit at a likely strength; of gains without tilt and ablation, or of an ablation alone.
        tried: trials, of which those count that are this point times a factor.
        family: how strong its members may be.

    Returns:
        The point; None where no trial tells its cost, or one stood there already.
    """
    costs = {
        factor: 1 + trial.excess
        for trial in tried
        if (factor := _factor(trial.point, likely)) and 0 < 1 + trial.excess < math.inf
    }
    if not costs:
        return None
    nearest = min(costs, key=lambda factor: abs(math.log(costs[factor] / _AIM)))
    power = _SQUARE
    if len(costs) > 1:
        low, high = min(costs), max(costs)
        slope = math.log(costs[high] / costs[low]) / math.log(high / low)
        power = min(max(slope, _LEAST_POWER), _MOST_POWER)
    factor = nearest * (_AIM / costs[nearest]) ** (1 / power)
    factor = min(max(factor, 1 / _FURTHEST), _FURTHEST, _most(likely, family))
    if any(abs(factor / one - 1) < _SAME for one in costs):
        return None
    return likely.scaled(factor)


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
