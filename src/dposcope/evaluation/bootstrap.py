"""Bootstrap intervals: bias-corrected and accelerated (BCa), with tails as wide as Student's t.

The percentile interval covers too little for few items or skewed ones: with 12 items 87 to 91 % in the place of 95
(`benchmarks/interval_coverage.py`). BCa corrects bias and skewness (Efron, *Better bootstrap confidence intervals*,
1987). The tails of its levels are widened by the quantile of Student's t with n − 1 degrees of freedom, as resamples
vary too little by √((n−1)/n) (Hesterberg, *What teachers should know about the bootstrap*, 2015).

For the same number of items and the same seed, every statistic is computed on the same resamples. So conditions that
are measured on the same prompts are always resampled together, also in separate calls.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtr, stdtrit

from dposcope.data.given.numbers import number, seed_of, whole
from dposcope.errors import DposcopeError
from dposcope.protocols import LEAST_ITEMS

# Items drawn at a time: 8 MB of indices and, of each column, as much of gathered values.
_DRAWN_AT_ONCE = 1_000_000
# Counts that are kept for the next statistic on as many items: at most 16 MB of each of eight sizes. One condition has
# five: its prompts, passages, windows, texts read for relevance, and texts of the ideal.
_KEPT = 2_000_000
_SIZES = 8

Statistic = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Means of columns [k, m] → one number for each of m samples [m]; NaN where it is undefined."""


class Bootstrap:
    """Resamples of `n` items."""

    def __init__(self, columns: NDArray[np.float64], *, resamples: int, seed: int) -> None:
        """Draw the resamples.

        Args:
            columns: numbers of the items, [k, n]; all columns are resampled together.
            resamples: how many.
            seed: of the draws.
        """
        seed = seed_of(seed)
        if whole("resamples", resamples) < 1:
            raise DposcopeError(f"resamples is {resamples}; give at least 1")
        self.n = columns.shape[1]
        self._whole = columns.mean(axis=1, keepdims=True)
        self._drawn = _resampled_means(columns, resamples, seed)
        # Means without one of the items, for the acceleration.
        self._without_one = (columns.sum(axis=1, keepdims=True) - columns) / max(self.n - 1, 1)

    def value(self, statistic: Statistic) -> float:
        """The statistic of all items."""
        return float(statistic(self._whole)[0])

    def least(self, statistic: Statistic) -> float:
        """Its smallest value over all items and over the resamples."""
        return min(self.value(statistic), float(statistic(self._drawn).min()))

    def interval(self, statistic: Statistic, level: float = 0.95) -> tuple[float, float]:
        """Both ends of its interval; −∞ and ∞ with fewer than `LEAST_ITEMS` items.

        Raises:
            DposcopeError: a level outside (0, 1).
        """
        level = number("level", level)
        if not 0 < level < 1:
            raise DposcopeError(f"level is {level}; give a share between 0 and 1, such as 0.95")
        if self.n < LEAST_ITEMS:
            return -math.inf, math.inf
        values, bias, acceleration = self._shape(statistic)
        normal = math.sqrt(self.n / (self.n - 1)) * stdtrit(self.n - 1, np.array([1 - level, 1 + level]) / 2)
        shifted = bias + normal
        low, high = np.quantile(values, [ndtr(bias + _accelerated(one, acceleration)) for one in shifted])
        return float(low), float(high)

    def p_value(self, statistic: Statistic) -> float:
        """Two-sided p-value of the statistic being 0: 1 − the level at which an end of the interval is 0.

        Where every resample is on one side of 0, their distance from 0 in standard deviations decides: many tests at
        once need smaller p-values than a share of resamples can show. Resamples that are 0 themselves count against a
        difference, so that no test rejects where the interval ends at 0. 1 without an interval.
        """
        if self.n < LEAST_ITEMS:
            return 1.0
        values, bias, acceleration = self._shape(statistic)
        least, most = (_normal_quantile(values, 0.0, ties=ties) for ties in (0.0, 1.0))
        if values.min() > 0 or values.max() < 0:
            spread = float(values.std())
            distance = abs(float(values.mean())) / spread if spread > 0 else math.inf
            least = most = math.copysign(max(abs(least), distance), least)
        ends = [_accelerated(one - bias, -acceleration) - bias for one in (least, most)]
        normal = 0.0 if ends[0] <= 0 <= ends[1] else min(ends, key=abs)
        return float(2 * stdtr(self.n - 1, -abs(normal) * math.sqrt((self.n - 1) / self.n)))

    def _shape(self, statistic: Statistic) -> tuple[NDArray[np.float64], float, float]:
        """Its values in the resamples, with the corrections of bias (z₀) and skewness (a)."""
        values = statistic(self._drawn)
        values = values[np.isfinite(values)]
        around = statistic(self._without_one)
        around = around[np.isfinite(around)]
        around = around.mean() - around
        spread = float((around**2).sum())
        # Equal items differ by rounding alone.
        still = spread <= (1e-12 * self.value(statistic)) ** 2 * self.n
        acceleration = 0.0 if still else float((around**3).sum()) / (6 * spread**1.5)
        return values, 0.0 if still else _normal_quantile(values, self.value(statistic)), acceleration


def _accelerated(normal: float, acceleration: float) -> float:
    """`z / (1 − a z)`; infinite beyond its pole."""
    under = 1 - acceleration * normal
    return float(normal / under) if under > 0 else math.copysign(math.inf, normal)


def _normal_quantile(values: NDArray[np.float64], at: float, *, ties: float = 0.5) -> float:
    """The standard normal's quantile of the share of `values` below `at`, and of a share of those that tie with it.

    The share is at least half a value away from 0 and 1, so that the quantile is finite. Scores are often multiples of
    a small number, so many resamples tie; rounding may not part them.
    """
    near = 1e-12 * float(max(abs(at), np.abs(values).max()))
    under = np.count_nonzero(values < at - near)
    below = under + ties * (np.count_nonzero(values <= at + near) - under)
    return float(ndtri(min(max(below, 0.5), len(values) - 0.5) / len(values)))


def _resampled_means(columns: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Means [k, resamples] of the columns [k, n], every column under the same draws of items."""
    n = columns.shape[1]
    if n * resamples <= _KEPT:
        return np.concatenate([columns @ counts.T for counts in _counts(n, resamples, seed)], axis=1) / n
    means = ([column[drawn].mean(axis=1) for column in columns] for drawn in _draws(n, resamples, seed))
    return np.concatenate(list(means), axis=1)


@lru_cache(maxsize=_SIZES)
def _counts(n: int, resamples: int, seed: int) -> tuple[NDArray[np.float64], ...]:
    """How often each item is in each resample, `[resamples, n]`, in parts; kept, as many statistics are computed on the
    same resamples."""
    places = (drawn + n * np.arange(len(drawn))[:, None] for drawn in _draws(n, resamples, seed))
    return tuple(
        np.bincount(place.ravel(), minlength=place.size).reshape(place.shape).astype(np.float64) for place in places
    )


def _draws(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """The items of each resample, `[resamples, n]`, in parts."""
    generator = np.random.default_rng(seed)
    step = max(1, _DRAWN_AT_ONCE // n)
    for start in range(0, resamples, step):
        yield generator.integers(0, n, size=(min(step, resamples - start), n))
