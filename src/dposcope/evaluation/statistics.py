"""Means with percentile bootstrap intervals, and comparisons paired on the same items.

For the same number of items and the same seed, every function draws the same resamples. So conditions measured on the
same prompts are always resampled together, also in separate calls.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dposcope.errors import DposcopeError, plural
from dposcope.evaluation.numbers import DIFFERENCE, MEAN, RATIO, SHARE

# Items drawn at a time: 8 MB of indices and as much of gathered values.
_DRAWN_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean with its bootstrap interval over `n` items."""

    mean: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """The fields as `scores.json` holds them; `Estimate(**d)` reads them back."""
        return asdict(self)

    def __str__(self) -> str:
        """Like `0.219 (0.187–0.251)`."""
        return MEAN.with_interval(self.mean, self.low, self.high)


@dataclass(frozen=True)
class Difference:
    """Mean of `a − b` over `n` pairs, with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0. Only then may a difference be called "better" or "worse"."""
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, float | int]:
        """The fields; `Difference(**d)` reads them back."""
        return asdict(self)

    def __str__(self) -> str:
        """Like `−0.088 (−0.102 to −0.061)`."""
        return DIFFERENCE.with_interval(self.mean, self.low, self.high)


@dataclass(frozen=True)
class Ratio:
    """Mean of `a` over mean of `b`, both over the same `n` items, with its bootstrap interval."""

    ratio: float
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """The fields; `Ratio(**d)` reads them back."""
        return asdict(self)

    def __str__(self) -> str:
        """Like `0.48 × (0.41–0.56)`."""
        return RATIO.with_interval(self.ratio, self.low, self.high)


@dataclass(frozen=True)
class Share:
    """One reduction as a share of another: `(mean(base) − mean(part)) / (mean(base) − mean(whole))`."""

    share: float
    """1: equal reductions; below 0: an increase."""
    low: float
    high: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """The fields; `Share(**d)` reads them back."""
        return asdict(self)

    def __str__(self) -> str:
        """Like `23.9 % (12.0–36.1)`."""
        return SHARE.with_interval(self.share, self.low, self.high)


Statistic = Estimate | Difference | Ratio | Share
"""A number with its interval."""


def value_of(statistic: Statistic) -> float:
    """The number of a statistic, without its interval."""
    match statistic:
        case Estimate() | Difference():
            return statistic.mean
        case Ratio():
            return statistic.ratio
        case Share():
            return statistic.share


def columns_of(name: str, statistic: Statistic | None) -> dict[str, float | None]:
    """A statistic as columns of a table: `NAME`, `NAME_low`, `NAME_high`; all None without a statistic."""
    numbers = (None, None, None) if statistic is None else (value_of(statistic), statistic.low, statistic.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), numbers, strict=True))


def bootstrap_mean(values: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """Mean of `values` [n] with the percentile bootstrap interval over items.

    One item gives an interval of no width.

    Raises:
        DposcopeError: no value, a value that is not finite, or a level outside (0, 1).
    """
    column = _column(values, "values")
    means = _resampled_means(column[None], resamples=resamples, seed=seed)
    low, high = _interval(means[0], level)
    return Estimate(float(column.mean()), low, high, len(column))


def bootstrap_ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """`Σ numerators / Σ denominators` with its bootstrap interval over items: a weighted mean.

    For example log-perplexity: negative log-likelihoods of windows [n], in nats, divided by their token counts [n].
    Windows are resampled, not tokens.

    Raises:
        DposcopeError: as `bootstrap_mean`; unequal lengths; a denominator that is not positive.
    """
    top, bottom = _pair(numerators, denominators, "numerators", "denominators")
    _require_positive(bottom)
    tops, bottoms = _resampled_means(np.stack([top, bottom]), resamples=resamples, seed=seed)
    low, high = _interval(tops / bottoms, level)
    return Estimate(float(top.sum() / bottom.sum()), low, high, len(top))


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    *,
    denominators: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Mean of `a − b` over pairs [n], resampled by pair.

    Args:
        a: one condition, [n].
        b: the other, [n], the same items in the same order.
        denominators: if given, the result is `Σ(a − b) / Σ denominators`, for example a difference of
            log-perplexities.
        level: coverage of the interval.
        resamples: number of bootstrap resamples.
        seed: of the resamples.

    Raises:
        DposcopeError: as `bootstrap_ratio`.
    """
    left, right = _pair(a, b, "a", "b")
    # With denominators of 1, the ratio is a mean.
    counts = np.ones_like(left) if denominators is None else denominators
    result = bootstrap_ratio(left - right, counts, level=level, resamples=resamples, seed=seed)
    return Difference(result.mean, result.low, result.high, result.n)


def paired_ratio(
    a: ArrayLike,
    b: ArrayLike,
    *,
    a_counts: ArrayLike | None = None,
    b_counts: ArrayLike | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Ratio:
    """`mean(a) / mean(b)` over the same items [n], both means from the same resamples.

    Args:
        a: one condition, [n].
        b: the other, [n], the same items in the same order.
        a_counts: if given, the mean of `a` is `Σ a / Σ a_counts`, for example nats per token of texts.
        b_counts: the same for `b`.
        level: coverage of the interval.
        resamples: number of bootstrap resamples.
        seed: of the resamples.

    Raises:
        DposcopeError: as `bootstrap_mean`; unequal lengths; the mean of `b`, or a sum of counts, is not
            positive in some resample, so that the ratio has no interval.
    """
    top, bottom = _pair(a, b, "a", "b")
    tops, bottoms = _resampled_means(np.stack([top, bottom]), resamples=resamples, seed=seed)
    over, under = float(top.mean()), float(bottom.mean())
    if a_counts is not None or b_counts is not None:
        counts = np.stack(
            [
                np.ones_like(values) if given is None else _pair(values, given, name, f"{name}_counts")[1]
                for values, given, name in ((top, a_counts, "a"), (bottom, b_counts, "b"))
            ]
        )
        drawn = _resampled_means(counts, resamples=resamples, seed=seed)
        if drawn.min() <= 0:
            raise DposcopeError("a resample counts nothing; give more items, or leave out those that count nothing")
        tops, bottoms = tops / drawn[0], bottoms / drawn[1]
        over, under = over / float(counts[0].mean()), under / float(counts[1].mean())
    if under <= 0 or bottoms.min() <= 0:
        raise DposcopeError(
            "a ratio needs a denominator whose mean is above 0 in every resample; give more items, or use the paired "
            "difference instead"
        )
    low, high = _interval(tops / bottoms, level)
    return Ratio(over / under, low, high, len(top))


def paired_share(
    base: ArrayLike,
    part: ArrayLike,
    whole: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Share:
    """The reduction from `base` to `part` as a share of the reduction from `base` to `whole` (paper Table 3).

    Args:
        base: toxicity of the plain model, [n].
        part: under a patch, the same items.
        whole: of the tuned model, the same items.
        level: coverage of the interval.
        resamples: number of bootstrap resamples; all three are resampled together.
        seed: of the resamples.

    Raises:
        DposcopeError: as `bootstrap_mean`; unequal lengths; the reduction to `whole` is not above 0 with its interval,
            so that a share of it means nothing.
    """
    start, end = _pair(base, whole, "base", "whole")
    middle = _pair(base, part, "base", "part")[1]
    starts, middles, ends = _resampled_means(np.stack([start, middle, end]), resamples=resamples, seed=seed)
    if start.mean() <= end.mean() or _interval(starts - ends, level)[0] <= 0:
        raise DposcopeError(
            "the whole reduction is not significantly above 0, so a share of it means nothing; give more items, or "
            "report the paired differences instead"
        )
    usable = starts > ends  # a share is undefined in the few resamples without a reduction
    low, high = _interval((starts - middles)[usable] / (starts - ends)[usable], level)
    share = (start.mean() - middle.mean()) / (start.mean() - end.mean())
    return Share(float(share), low, high, len(start))


def _resampled_means(columns: NDArray[np.float64], *, resamples: int, seed: int) -> NDArray[np.float64]:
    """Means [k, resamples] of the columns [k, n], every column under the same draws of items."""
    if resamples < 1:
        raise DposcopeError(f"resamples is {resamples}; give at least 1")
    n = columns.shape[1]
    generator = np.random.default_rng(seed)
    means = np.empty((len(columns), resamples))
    step = max(1, _DRAWN_AT_ONCE // n)
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        drawn = generator.integers(0, n, size=(stop - start, n))
        for column, out in zip(columns, means, strict=True):
            out[start:stop] = column[drawn].mean(axis=1)
    return means


def _interval(statistics: NDArray[np.float64], level: float) -> tuple[float, float]:
    if not 0 < level < 1:
        raise DposcopeError(f"level is {level}; give a share between 0 and 1, such as 0.95")
    tail = (1 - level) / 2
    low, high = np.quantile(statistics, [tail, 1 - tail])
    return float(low), float(high)


def _column(values: ArrayLike, name: str) -> NDArray[np.float64]:
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1:
        raise DposcopeError(f"{name} has shape {column.shape}; give one number per item, shape [n]")
    if not len(column):
        raise DposcopeError(f"{name} is empty; a mean needs at least one item")
    bad = int((~np.isfinite(column)).sum())
    if bad:
        raise DposcopeError(
            f"{bad:,} of {plural(len(column), 'number')} in {name} {'is' if bad == 1 else 'are'} not finite; "
            "score those items again, or leave them out of every condition"
        )
    return column


def _pair(a: ArrayLike, b: ArrayLike, a_name: str, b_name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    left, right = _column(a, a_name), _column(b, b_name)
    if len(left) != len(right):
        raise DposcopeError(
            f"{a_name} has {plural(len(left), 'item')} and {b_name} {len(right):,}; "
            "give the same items to both, in the same order"
        )
    return left, right


def _require_positive(denominators: NDArray[np.float64]) -> None:
    if denominators.min() <= 0:
        raise DposcopeError("denominators must be above 0; leave out items that count nothing")
