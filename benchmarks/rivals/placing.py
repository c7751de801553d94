"""Strengths where a line costs what it is to be compared at, found on neutral text that no report reads.

Reading some windows is far cheaper than writing to all prompts, so evaluations are spent only where they count. Every
rival gets the same treatment, which spares each the strengths that are useless to it.
"""

import itertools
import math
from collections.abc import Callable, Sequence

COSTS = (0.05, 0.1, 0.2, 0.3)
"""Rises of log-perplexity at which rivals are compared, nats per token."""
TARGETS = (0.1, 0.35, 0.05, 0.2, 0.03, 0.3, 0.15, 0.25)
"""Where evaluations go, most useful first; one lies beyond the last of COSTS, so that this is between points."""
_MOST_TRIED = 10
_BROKEN = 1e6
"""Nats per token of a model that overflows."""


def bracket(cost_at: Callable[[float], float], *, start: float, most: float) -> dict[float, float]:
    """Strength → cost, at factors of 2 around the range of `TARGETS`.

    Args:
        cost_at: measures one strength.
        start: the first one.
        most: none is larger.
    """

    def cost(strength: float) -> float:
        found = cost_at(strength)
        return found if math.isfinite(found) else _BROKEN

    low = high = min(start, most)
    tried = {low: cost(low)}
    while tried[high] < max(TARGETS) and high < most and len(tried) < _MOST_TRIED:
        high = min(2 * high, most)
        tried[high] = cost(high)
    while tried[low] > min(TARGETS) and len(tried) < _MOST_TRIED:
        low /= 2
        tried[low] = cost(low)
    return tried


def strengths_at(tried: dict[float, float], targets: Sequence[float]) -> list[float]:
    """The strengths expected to cost `targets`, ascending, none twice; the strongest tried where none costs so much.

    Damage grows about with the square of a small edit, so its root is interpolated, from 0 at strength 0.
    """
    knots = [(0.0, 0.0)]
    for strength in sorted(tried):
        # A cost below that of a weaker strength is noise, or a line that turns back: the first crossing counts.
        knots.append((strength, max(knots[-1][1], math.sqrt(max(tried[strength], 0.0)))))
    return sorted({float(f"{_crossing(knots, math.sqrt(target)):.3g}") for target in targets} - {0.0})


def _crossing(knots: list[tuple[float, float]], root: float) -> float:
    for (low, low_root), (high, high_root) in itertools.pairwise(knots):
        if high_root >= root > low_root:
            return low + (high - low) * (root - low_root) / (high_root - low_root)
    return knots[-1][0]


def spread(values: Sequence[float], count: int) -> tuple[float, ...]:
    """At most `count` of the values, evenly spread, the last always among them."""
    if count >= len(values):
        return tuple(values)
    places = {round((place + 1) * len(values) / count) - 1 for place in range(count)}
    return tuple(values[place] for place in sorted(places))
