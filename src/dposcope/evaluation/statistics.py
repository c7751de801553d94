"""Means with bootstrap intervals, comparisons paired on the same items, and Holm's correction for many of them.

Intervals are those of `evaluation/bootstrap.py`. With fewer than ten items there is no interval: its ends are −∞ and
∞, so that nothing counts as shown, and null where they are stored.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Annotated, Any, NotRequired, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BeforeValidator
from scipy.special import ndtr
from scipy.stats import binomtest
from typing_extensions import TypedDict

from dposcope.errors import DposcopeError, plural
from dposcope.evaluation.bootstrap import Bootstrap
from dposcope.evaluation.numbers import DIFFERENCE, MEAN, RATIO, SHARE, Format, fixed, too_few
from dposcope.protocols import LEAST_ITEMS


class _StoredInterval(TypedDict):
    low: float | None
    high: float | None
    n: int


LEVEL = 0.05
"""A test of one difference rejects at this p-value and below."""

_FLIPPED_AT_ONCE = 1_000_000
"""Signs: 8 MB."""
_KEPT = 2_000_000
"""Signs that are kept for the next test on as many pairs: at most 2 MB of each of eight numbers of pairs."""
_SIZES = 8


class StoredEstimate(_StoredInterval):
    """An `Estimate` in a file; its ends are null without an interval."""

    mean: float


class StoredDifference(_StoredInterval):
    """A `Difference` in a file."""

    mean: float
    p: float
    p_sign: NotRequired[float]


class StoredRatio(_StoredInterval):
    """A `Ratio` in a file."""

    ratio: float


class StoredShare(_StoredInterval):
    """A `Share` in a file."""

    share: float


def _unknown(end: float) -> BeforeValidator:
    """Reads null, which stands for an end that is not known."""

    def read(stored: float | None) -> float:
        return _end(stored, end)

    return BeforeValidator(read)


_Low = Annotated[float, _unknown(-math.inf)]
_High = Annotated[float, _unknown(math.inf)]


class _Interval:
    """What all numbers with an interval have in common: how they are stored and told."""

    low: float
    high: float
    n: int

    @property
    def known(self) -> bool:
        """Whether there were enough items for an interval."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def ends(self) -> tuple[float, float] | tuple[None, None]:
        """Low and high; None without an interval."""
        return (self.low, self.high) if self.known else (None, None)

    def told(self, format: Format) -> str:
        """The interval as text, without brackets; `n = 3, no interval` where there were too few items."""
        return format.interval(self.low, self.high) if self.known else too_few(self.n)

    def to_dict(self) -> dict[str, Any]:
        """The fields as `scores.json` holds them; the ends are None without an interval."""
        return asdict(self, dict_factory=stored_fields)  # pyright: ignore — each kind is a dataclass

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """Read what `to_dict` gave."""
        return cls(**{**stored, "low": _end(stored["low"], -math.inf), "high": _end(stored["high"], math.inf)})


def stored_fields(fields: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A `dict_factory` for `dataclasses.asdict`: ends of an interval that is not known become None."""
    return {name: None if name in ("low", "high") and math.isinf(value) else value for name, value in fields}


def _end(stored: float | None, unknown: float) -> float:
    return unknown if stored is None else stored


@dataclass(frozen=True)
class Estimate(_Interval):
    """A mean with its bootstrap interval over `n` items."""

    mean: float
    low: _Low
    high: _High
    n: int

    def __str__(self) -> str:
        """Like `0.219 (0.187–0.251)`."""
        return f"{MEAN.value(self.mean)} ({self.told(MEAN)})"


@dataclass(frozen=True)
class Difference(_Interval):
    """Mean of `a − b` over `n` pairs, with its bootstrap interval."""

    mean: float
    low: _Low
    high: _High
    n: int
    p: float = 1.0
    """Two-sided p-value of no difference; it is below 0.05 where the interval of 95 % excludes 0. 1 without an
    interval."""
    p_sign: float = field(default=0.0, repr=False)
    """Two-sided p-value of the sign-flip test, see `sign_flip_p`. It keeps its level where few pairs differ at all, and
    the interval says too much. 0 in files that have none."""

    @property
    def p_mark(self) -> float:
        """The larger of both p-values: a mark needs both."""
        return max(self.p, self.p_sign)

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0: one of the two tests."""
        return self.low > 0 or self.high < 0

    @property
    def shown(self) -> bool:
        """Whether both tests show a difference: the interval excludes 0, and the sign-flip test agrees.

        Only then may a sentence call the condition better or worse, or say that it falls or rises. It is the rule of a
        mark, without Holm's correction: a sentence is about one condition, a mark stands in a column of many.
        """
        return self.excludes_zero and self.p_sign <= LEVEL

    @property
    def falls(self) -> bool:
        """Whether a fall is shown."""
        return self.shown and self.high < 0

    @property
    def rises(self) -> bool:
        """Whether a rise is shown."""
        return self.shown and self.low > 0

    @property
    def doubt(self) -> str:
        """Why a difference is not shown, in a few words; empty where it is."""
        if self.shown:
            return ""
        if not self.known:
            return too_few(self.n)
        if self.excludes_zero:
            # Three decimals, but where they would read as the level itself.
            value = fixed(self.p_sign) if fixed(self.p_sign) != fixed(LEVEL) else fixed(self.p_sign, 4)
            return f"the sign-flip test has p\u00a0=\u00a0{value}"
        return "the interval holds\u00a00"

    def __str__(self) -> str:
        """Like `−0.088 (−0.102 to −0.061)`."""
        return f"{DIFFERENCE.value(self.mean)} ({self.told(DIFFERENCE)})"


@dataclass(frozen=True)
class Ratio(_Interval):
    """Mean of `a` over mean of `b`, both over the same `n` items, with its bootstrap interval."""

    ratio: float
    low: _Low
    high: _High
    n: int

    def __str__(self) -> str:
        """Like `0.48 × (0.41–0.56)`."""
        return f"{RATIO.value(self.ratio)} ({self.told(RATIO)})"


@dataclass(frozen=True)
class Share(_Interval):
    """One reduction as a share of another: `(mean(base) − mean(part)) / (mean(base) − mean(whole))`."""

    share: float
    """1: equal reductions; below 0: an increase."""
    low: _Low
    high: _High
    n: int

    def __str__(self) -> str:
        """Like `23.9 % (12.0–36.1)`."""
        return f"{SHARE.value(self.share)} ({self.told(SHARE)})"


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
    """A statistic as columns of a table: `NAME`, `NAME_low`, `NAME_high`, `NAME_n`; all None without a statistic."""
    numbers = (None,) * 4 if statistic is None else (value_of(statistic), *statistic.ends, statistic.n)
    return dict(zip((name, f"{name}_low", f"{name}_high", f"{name}_n"), numbers, strict=True))


def holm(p_values: Sequence[float], *, level: float = LEVEL) -> list[bool]:
    """Which of several tests reject, if the chance that any of them rejects wrongly is to stay below `level`.

    Holm's step-down: the smallest p-value is held against level / m, the next against level / (m − 1), and so on up to
    the first that fails (Holm, *A simple sequentially rejective multiple test procedure*, 1979).
    """
    rejected = [False] * len(p_values)
    for rank, test in enumerate(sorted(range(len(p_values)), key=lambda test: p_values[test])):
        if p_values[test] > level / (len(p_values) - rank):
            break
        rejected[test] = True
    return rejected


def sign_flip_p(differences: ArrayLike, *, flips: int = 10_000, seed: int = 0) -> float:
    """How often the mean of paired differences is as far from 0 if each has its sign by chance (two-sided).

    Without a difference between two conditions, each pair could as well be the other way round. So the test holds for
    any number of pairs that differ. The p-value is at least the tail of the normal distribution beyond Σd / √Σd², which
    is about that of such sums (Efron, *Student's t-test under symmetry conditions*, 1969): 29 pairs that differ by
    next to nothing and one that differs much are one pair that differs. Where fewer than ten flips reach the mean,
    their share says little, and the tail alone is taken.

    Args:
        differences: of each pair, [n].
        flips: how many assignments of signs are drawn.
        seed: of the draws.

    Returns:
        1 with fewer than ten pairs, as there is no interval.
    """
    column = _column(differences, "differences")
    length = float(np.sqrt((column**2).sum()))
    if len(column) < LEAST_ITEMS or length == 0:
        return 1.0
    found = abs(float(column.sum()))
    near = 1e-9 * float(np.abs(column).sum())
    column = column[column != 0]  # whatever their sign
    reach = sum(
        int(np.count_nonzero(np.abs(signs @ column) >= found - near)) for signs in _signs(len(column), flips, seed)
    )
    tail = float(2 * ndtr(-found / length))
    return max(tail, (reach + 1) / (flips + 1)) if reach >= LEAST_ITEMS else tail


def _signs(n: int, flips: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """−1 or 1, `[flips, n]`, in parts; the same for all tests on as many pairs."""
    parts = _kept_signs(n, flips, seed) if n * flips <= _KEPT else _drawn_signs(n, flips, seed)
    return (part.astype(np.float64) for part in parts)


@lru_cache(maxsize=_SIZES)
def _kept_signs(n: int, flips: int, seed: int) -> tuple[NDArray[np.int8], ...]:
    """Kept, as a test of every measure of every condition takes the same."""
    return tuple(_drawn_signs(n, flips, seed))


def _drawn_signs(n: int, flips: int, seed: int) -> Iterator[NDArray[np.int8]]:
    generator = np.random.default_rng(seed)
    step = max(1, _FLIPPED_AT_ONCE // n)
    for start in range(0, flips, step):
        drawn = generator.integers(0, 2, size=(min(step, flips - start), n))
        yield (2 * drawn - 1).astype(np.int8)


def bootstrap_mean(values: ArrayLike, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """Mean of `values` [n] with its bootstrap interval over items.

    Raises:
        DposcopeError: no value, a value that is not finite, or a level outside (0, 1).
    """
    column = _column(values, "values")
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
    left, right = _pair(a, b, "a", "b")
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
    top, bottom = _pair(a, b, "a", "b")
    counts = [
        np.ones_like(values) if given is None else _pair(values, given, name, f"{name}_counts")[1]
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
    start, end = _pair(base, whole, "base", "whole")
    middle = _pair(base, part, "base", "part")[1]
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
    top, bottom = _pair(numerators, denominators, "numerators", "denominators")
    if bottom.min() <= 0:
        raise DposcopeError("denominators must be above 0; leave out items that count nothing")
    drawn = Bootstrap(np.stack([top, bottom]), resamples=resamples, seed=seed)
    return drawn, float(top.sum() / bottom.sum())


def _quotient(means: NDArray[np.float64]) -> NDArray[np.float64]:
    return means[0] / means[1]


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
