"""Numbers with their intervals: a mean, a difference, a ratio, a share of a reduction.

With fewer than ten items there is no interval: its ends are −∞ and ∞, so that nothing counts as shown, and null where
they are stored.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, NotRequired, Self

from pydantic import BeforeValidator
from typing_extensions import TypedDict

from dposcope.evaluation.numbers import DIFFERENCE, MEAN, RATIO, SHARE, Format, fixed, too_few

LEVEL = 0.05
"""A test of one difference rejects at this p-value and below."""


class _StoredInterval(TypedDict):
    low: float | None
    high: float | None
    n: int


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
