"""The strongest edit that the neutral text allows: a safeguarded bisection on one factor."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from dposcope.evaluation.statistics import Difference

TOLERANCE = 0.05
"""The search ends when the increase lies within this share below the bound."""

_NARROW = 0.02
"""It also ends when the factors still in question differ by this share: weights that are rounded to half precision make
the increase jump from one factor to the next."""
_MOST_STEPS = 12
_LARGEST = 16.0


@dataclass(frozen=True)
class StrengthStep:
    """One trial."""

    strength: float
    """The factor on α and w together, on a point of a search, or on a teacher's change of weights."""
    increase: Difference
    """Log-perplexity of the edited model minus that of the plain one, nats per token, over windows."""


@dataclass(frozen=True)
class StrengthSearch:
    """What was tried, and what was chosen."""

    steps: tuple[StrengthStep, ...]
    chosen: float
    """0 where even the weakest trial costs too much."""
    bound: float


def overflow(vocabulary: int, bound: float, windows: int) -> Difference:
    """The rise of log-perplexity of a model that overflows in half precision: worse than guessing, beyond any bound.

    Args:
        vocabulary: tokens that the model predicts.
        bound: nats per token.
        windows: that were read.
    """
    cost = max(math.log(vocabulary), 2 * bound)
    return Difference(cost, cost, cost, windows)


def search_strength(
    increase_at: Callable[[float], Difference], bound: float, *, start: float = 1.0, most: float = _LARGEST
) -> StrengthSearch:
    """The largest factor whose increase in log-perplexity stays within `bound`, even at the top of its interval.

    The upper limit counts, not the mean, so that the bound holds on other neutral text more often. Damage grows
    about with the square of a small edit, so trials are placed by interpolating its square root, and kept
    inside the bracket as bisection would.

    Args:
        increase_at: measures one strength.
        bound: nats per token, above 0.
        start: the first trial.
        most: no factor beyond it is tried.
    """
    steps: list[StrengthStep] = []
    low, low_root = 0.0, 0.0
    high: float | None = None
    high_root = 0.0
    goal = math.sqrt(bound * (1 - TOLERANCE / 2))
    trial = start
    while len(steps) < _MOST_STEPS:
        step = StrengthStep(trial, increase_at(trial))
        steps.append(step)
        cost = step.increase.high
        root = math.sqrt(max(cost, 0.0))
        if cost <= bound:
            low, low_root = trial, root
            if cost >= bound * (1 - TOLERANCE) or trial >= most:
                break
        else:
            high, high_root = trial, root
        if high is not None and low > 0 and high - low <= _NARROW * high:
            break
        if high is None:
            factor = goal / low_root if low_root > 0 else 2.0
            trial = min(low * min(max(factor, 1.05), 2.0), most)
        else:
            place = (goal - low_root) / (high_root - low_root) if high_root > low_root else 0.5
            trial = low + (high - low) * min(max(place, 0.1), 0.9)
    return StrengthSearch(tuple(steps), low, bound)
