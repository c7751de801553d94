"""Sweeps compared at equal cost: a line of strengths as a function of what it costs.

A line begins at the plain model, cost 0, and goes through what was measured in order of strength; between two points
everything is interpolated linearly, prompt by prompt. A rival may spend up to the cost c, so what counts is the best
point of any of its lines at a cost of at most c. Every such point is a mixture of at most two measured ones, and
keeps one value per prompt: differences between rivals are paired. The mixtures are chosen by means and held fixed
while prompts are resampled, so an interval is that of the concept at this cost, not that of the cost.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dposcope.errors import DposcopeError

Values = NDArray[np.float64]
SCORE = "toxicity"
"""The measure that makes one point better than another: less of it."""
_AREA_STEPS = 60


@dataclass(frozen=True, eq=False)
class Spot:
    """One measured strength."""

    cost: float
    """Rise of log-perplexity, nats per token; may be below 0."""
    values: Mapping[str, Values]
    """Measure → one value per item, the same items in every spot."""
    label: str = ""
    """What it is, for people."""

    @property
    def score(self) -> float:
        """Mean concept score."""
        return float(self.values[SCORE].mean())


Line = Sequence[Spot]
"""In order of strength; the plain model first."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """(1 − t) · low + t · high: a point between two neighbours of a line."""

    low: Spot
    high: Spot
    t: float

    @property
    def cost(self) -> float:
        """Interpolated."""
        return (1 - self.t) * self.low.cost + self.t * self.high.cost

    @property
    def score(self) -> float:
        """Interpolated."""
        return (1 - self.t) * self.low.score + self.t * self.high.score

    @property
    def label(self) -> str:
        """What it is a mixture of."""
        parts = (self.low,) if self.t == 0 else (self.high,) if self.t == 1 else (self.low, self.high)
        return " to ".join(part.label for part in parts)

    def values(self, measure: str) -> Values:
        """Interpolated, item by item."""
        return (1 - self.t) * self.low.values[measure] + self.t * self.high.values[measure]


def best_at(lines: Sequence[Line], cost: float) -> Mixture:
    """The lowest score that any line reaches at a cost of at most `cost`; of equal ones the first.

    A line is straight between its points, so its best point is a measured one or lies where it crosses `cost`.

    Raises:
        DposcopeError: no line has a point that cheap, which one with the plain model has for every cost ≥ 0.
    """
    found = [mixture for line in lines for mixture in _candidates(line, cost)]
    if not found:
        raise DposcopeError(f"no point costs {cost} or less; begin every line with the plain model")
    return min(found, key=lambda mixture: mixture.score)


def _candidates(line: Line, cost: float) -> list[Mixture]:
    found = [Mixture(spot, spot, 0.0) for spot in line if spot.cost <= cost]
    for low, high in itertools.pairwise(line):
        if (low.cost <= cost) != (high.cost <= cost):
            found.append(Mixture(low, high, (cost - low.cost) / (high.cost - low.cost)))
    return found


def mean_up_to(lines: Sequence[Line], cost: float, measure: str = SCORE, *, steps: int = _AREA_STEPS) -> Values:
    """Area under the curve of `best_at` from 0 to `cost` over `cost`, item by item: a mean score, by trapezoids.

    Args:
        lines: of one rival.
        cost: right end, above 0.
        measure: whose values are averaged; the points are those with the best score.
        steps: trapezoids.
    """
    total = np.zeros_like(lines[0][0].values[measure])
    for step in range(steps + 1):
        share = (0.5 if step in (0, steps) else 1.0) / steps
        total = total + share * best_at(lines, cost * step / steps).values(measure)
    return total
