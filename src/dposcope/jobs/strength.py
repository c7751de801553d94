"""Find the largest strength of an edit within the bound on log-perplexity, by a safeguarded bisection."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from dposcope.evaluation.statistics.intervals import Difference

TOLERANCE = 0.05
"""The search ends when the increase lies within this share below the bound."""

_NARROW = 0.02
"""The search also ends when the bracket is narrower than this share. In half precision, weights are rounded, so the
increase is a step function of the factor."""
_MOST_STEPS = 12
_LARGEST = 16.0


@dataclass(frozen=True)
class StrengthStep:
    """One trial."""

    strength: float
    """The factor on α and w together, on gains and ablation of a trial, or on a teacher's change of weights."""
    increase: Difference
    """Log-perplexity of the edited model minus that of the plain one, nats per token, over windows."""


@dataclass(frozen=True)
class StrengthSearch:
    """All trials, and the chosen strength."""

    steps: tuple[StrengthStep, ...]
    chosen: float
    """0 if even the weakest trial costs too much."""
    bound: float


def overflow(vocabulary: int, bound: float, windows: int) -> Difference:
    """The rise of log-perplexity to report for a model that overflows: above guessing, and above the bound.

    Args:
        vocabulary: number of tokens in the vocabulary.
        bound: nats per token.
        windows: number of windows read.
    """
    cost = max(math.log(vocabulary), 2 * bound)
    return Difference(cost, cost, cost, windows)


def search_strength(
    increase_at: Callable[[float], Difference],
    bound: float,
    *,
    start: float = 1.0,
    most: float = _LARGEST,
    enough: Callable[[float], bool] = lambda _: False,
) -> StrengthSearch:
    """The largest factor at which the upper end of the increase's interval is within `bound`.

    The upper end is used instead of the mean, so that the bound holds more often on other neutral text. The increase
    grows about with the square of a small edit, so trials are placed by interpolating its square root, and limited to
    the bracket as in bisection.

    Args:
        increase_at: measures one strength.
        bound: nats per token, above 0.
        start: the first trial.
        most: the largest factor to try.
        enough: whether no larger factor is of use. It is asked of a factor within the bound before a larger one is
            tried.
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
            if cost >= bound * (1 - TOLERANCE) or trial >= most or enough(trial):
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
