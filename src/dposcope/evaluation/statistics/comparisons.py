"""Means with bootstrap intervals, and comparisons paired on the same items, see `evaluation/bootstrap.py`."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from dposcope.errors import DposcopeError
from dposcope.evaluation.bootstrap import Bootstrap
from dposcope.evaluation.statistics.columns import checked, checked_pair
from dposcope.evaluation.statistics.intervals import Difference, Estimate, Ratio, Share
from dposcope.evaluation.statistics.significance import sign_flip_p


def bootstrap_mean(values: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """Mean of `values` [n] with its bootstrap interval over items.

    Raises:
        DposcopeError: no value, a value that is not finite, or a level outside (0, 1).
    """
    column = checked(values, "values")
    drawn = Bootstrap(column[None], resamples=resamples, seed=seed)
    return Estimate(float(column.mean()), *drawn.interval(lambda means: means[0], level), len(column))


def wilson(share: float, n: int) -> Estimate:
    """A share of `n` items with its Wilson interval of 95 per cent.

    A bootstrap of n hits in n gives an interval of no width; this one tells how little few items say.
    """
    interval = binomtest(round(share * n), n).proportion_ci(method="wilson")
    return Estimate(share, float(interval.low), float(interval.high), n)


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
    drawn, mean = _weighted(numerators, denominators, resamples=resamples, seed=seed)
    return Estimate(mean, *drawn.interval(_quotient, level), drawn.n)


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
    left, right = checked_pair(a, b, "a", "b")
    # With denominators of 1, the ratio is a mean.
    counts = np.ones_like(left) if denominators is None else denominators
    drawn, mean = _weighted(left - right, counts, resamples=resamples, seed=seed)
    p_sign = sign_flip_p(left - right, seed=seed)
    return Difference(mean, *drawn.interval(_quotient, level), drawn.n, drawn.p_value(_quotient), p_sign)


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
    top, bottom = checked_pair(a, b, "a", "b")
    counts = [
        np.ones_like(values) if given is None else checked_pair(values, given, name, f"{name}_counts")[1]
        for values, given, name in ((top, a_counts, "a"), (bottom, b_counts, "b"))
    ]
    drawn = Bootstrap(np.stack([top, bottom, *counts]), resamples=resamples, seed=seed)
    if drawn.least(lambda means: means[2:].min(axis=0)) <= 0:
        raise DposcopeError("a resample counts nothing; give more items, or leave out those that count nothing")
    if drawn.least(lambda means: means[1]) <= 0:
        raise DposcopeError(
            "a ratio needs a denominator whose mean is above 0 in every resample; give more items, or use the paired "
            "difference instead"
        )

    def ratio(means: NDArray[np.float64]) -> NDArray[np.float64]:
        return (means[0] / means[2]) / (means[1] / means[3])

    return Ratio(drawn.value(ratio), *drawn.interval(ratio, level), drawn.n)


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
    start, end = checked_pair(base, whole, "base", "whole")
    middle = checked_pair(base, part, "base", "part")[1]
    drawn = Bootstrap(np.stack([start, middle, end]), resamples=resamples, seed=seed)
    if start.mean() <= end.mean() or drawn.interval(lambda means: means[0] - means[2], level)[0] <= 0:
        raise DposcopeError(
            "the whole reduction is not significantly above 0, so a share of it means nothing; give more items, or "
            "report the paired differences instead"
        )

    def share(means: NDArray[np.float64]) -> NDArray[np.float64]:
        starts, middles, ends = means
        # A share is undefined in the few resamples without a reduction.
        return np.where(starts > ends, starts - middles, np.nan) / np.where(starts > ends, starts - ends, 1.0)

    return Share(drawn.value(share), *drawn.interval(share, level), drawn.n)


def _weighted(numerators: ArrayLike, denominators: ArrayLike, *, resamples: int, seed: int) -> tuple[Bootstrap, float]:
    """Resamples of both columns, and the quotient of their sums."""
    top, bottom = checked_pair(numerators, denominators, "numerators", "denominators")
    if bottom.min() <= 0:
        raise DposcopeError("denominators must be above 0; leave out items that count nothing")
    drawn = Bootstrap(np.stack([top, bottom]), resamples=resamples, seed=seed)
    return drawn, float(top.sum() / bottom.sum())


def _quotient(means: NDArray[np.float64]) -> NDArray[np.float64]:
    return means[0] / means[1]
