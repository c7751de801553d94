"""Format numbers for readers: fixed decimals, a true minus sign, no sign for values that round to 0.

All tables, reports and sentences format their numbers with this module.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast, get_args

from dposcope.errors import DposcopeError

NOTHING: Final = "–"
"""Shown if there is no value."""


def fixed(value: float, digits: int = 3) -> str:
    """`−0.088`; a negative value that rounds to 0 is `0.000`."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def exact(value: float, digits: int = 2) -> str:
    """A number that somebody chose, such as a bound: with as many decimals as it has, and at least `digits`.

    `0.20` and `0.025`; six decimals at most.
    """
    written = f"{value:.6f}".rstrip("0").partition(".")[2]
    return fixed(value, max(digits, len(written)))


def signed(value: float, digits: int = 3) -> str:
    """`+0.170` or `−0.088`; a value that rounds to 0 has no sign."""
    text = fixed(value, digits)
    return f"+{text}" if value > 0 and float(text) != 0 else text


def count(value: float, *, sign: bool = False) -> str:
    """`36,864`: a whole number with thousands separators; with `sign`, a plus before positive values."""
    text = f"{value:,.0f}".replace("-", "−")
    text = text.lstrip("−") if text == "−0" else text
    return f"+{text}" if sign and value > 0 and text != "0" else text


def percent(share: float, digits: int = 1, *, sign: bool = False) -> str:
    """A share as `52.3 %`."""
    return f"{(signed if sign else fixed)(100 * share, digits)} %"


def between(low: float, high: float, digits: int = 3, *, sign: bool = False) -> str:
    """An interval: `0.187–0.251`, or `−0.102 to −0.061`, since a dash before a minus sign is hard to read.

    `no interval` if an end is infinite: there were too few items.
    """
    if math.isinf(low) or math.isinf(high):
        return "no interval"
    shown = signed if sign else fixed
    first = shown(low, digits)
    return f"{first}{' to ' if sign or first.startswith('−') else '–'}{shown(high, digits)}"


def too_few(n: float) -> str:
    """What stands in the place of an interval that so few items have not: `n = 3, no interval`."""
    return f"n = {count(n)}, no interval"


def p_value(value: float) -> str:
    """Four decimals; `< 0.0001` for smaller values."""
    return "< 0.0001" if value < 1e-4 else fixed(value, 4)


def fact(value: Any) -> str:
    """A value of any kind: integers with thousands separators, floats with four significant digits, yes and no."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return count(value)
        case float():
            whole = 10_000 <= abs(value) < 1e15
            return (f"{value:,.0f}" if whole else f"{value + 0.0:.4g}").replace("-", "−")
        case list() | tuple():
            return ", ".join(map(fact, cast("Sequence[Any]", value))) or "none"
        case _:
            return str(value)


Kind = Literal[
    "text", "printed", "tokens", "fact", "count", "p-value", "fixed", "percent", "points", "ratio", "degrees"
]
"""How a value is formatted.

text: as it is. printed: a number that is text already. tokens: a list of tokens, without spaces around them. fact: see
`fact`. count: with thousands separators. p-value: see `p_value`. fixed: with a fixed number of decimals. percent: a
share from 0 to 1. points: a number that is in per cent already. ratio: `0.45 ×`. degrees: `12.5°`.
"""

_UNITS = {"fixed": "", "percent": " %", "points": " %", "ratio": " ×", "degrees": "°"}
_WORDS = ("text", "tokens")


@dataclass(frozen=True)
class Format:
    """Format of a column's values. Files contain its name, for example `signed percent 2`."""

    kind: Kind = "text"
    digits: int = 0
    """Number of decimals, for kinds that have them."""
    sign: bool = False
    """Whether positive values get a plus."""

    @classmethod
    def named(cls, name: str) -> "Format":
        """The format of a name.

        Raises:
            DposcopeError: there is none.
        """
        sign, rest = name.startswith("signed "), name.removeprefix("signed ")
        kind, _, digits = rest.partition(" ")
        if kind not in get_args(Kind) or (digits and not (digits.isdecimal() and len(digits) <= 2)):
            raise DposcopeError(f"no format is called {name!r}; give such as 'text', 'count' or 'signed fixed 3'")
        return cls(cast("Kind", kind), int(digits or 0), sign)

    def __str__(self) -> str:
        """Its name."""
        return f"{'signed ' if self.sign else ''}{self.kind}{f' {self.digits}' if self.kind in _UNITS else ''}"

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers, to be aligned on the right."""
        return self.kind not in _WORDS

    def value(self, value: Any) -> str:
        """A value as text; a dash for None."""
        if value is None:
            return NOTHING
        match self.kind:
            case "text" | "printed":
                return str(value)
            case "tokens":
                return ", ".join(shown for token in value if (shown := str(token).strip()))
            case "fact":
                return fact(value)
            case "count":
                return count(value, sign=self.sign)
            case "p-value":
                return p_value(value)
            case _:
                written = (signed if self.sign else fixed)(self._scale * value, self.digits)
                return f"{written}{_UNITS[self.kind]}"

    def interval(self, low: float, high: float) -> str:
        """An interval as text, without brackets and unit."""
        return between(self._scale * low, self._scale * high, self.digits, sign=self.sign)

    def with_interval(self, value: float, low: float, high: float) -> str:
        """Like `0.48 × (0.41–0.56)`."""
        return f"{self.value(value)} ({self.interval(low, high)})"

    @property
    def _scale(self) -> float:
        return 100 if self.kind == "percent" else 1


TEXT, PRINTED, TOKENS, FACT, COUNT, P_VALUE = (
    Format("text"), Format("printed"), Format("tokens"), Format("fact"), Format("count"), Format("p-value"),
)  # fmt: skip
MEAN, DIFFERENCE, RATIO, SHARE = (
    Format("fixed", 3), Format("fixed", 3, sign=True), Format("ratio", 2), Format("percent", 1),
)  # fmt: skip
"""Formats of means and correlations, of paired differences, of ratios of means, and of shares."""
