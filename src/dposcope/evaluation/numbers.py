"""Numbers as people read them: fixed places, a real minus sign, no "−0.000"."""

from typing import Any


def fixed(value: float, digits: int = 3) -> str:
    """`−0.088`, and `0.000` also for what rounds to it from below."""
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    """`+0.170` or `−0.088`; what rounds to zero has no sign."""
    text = fixed(value, digits)
    return f"+{text}" if value > 0 and float(text) != 0 else text


def between(low: float, high: float, digits: int = 3, *, sign: bool = False) -> str:
    """An interval: `0.187–0.251`, or `−0.102 to −0.061`, since a dash beside a minus cannot be read."""
    shown = signed if sign else fixed
    return f"{shown(low, digits)}{' to ' if sign or low < 0 else '–'}{shown(high, digits)}"


def fact(value: Any) -> str:
    """A setting or a quality of any kind: counts in groups of three, four significant digits, yes and no."""
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}".replace("-", "−")
        case float():
            whole = 10_000 <= abs(value) < 1e15
            return (f"{value:,.0f}" if whole else f"{value:.4g}").replace("-", "−")
        case list() | tuple():
            return ", ".join(map(fact, value)) or "none"
        case _:
            return str(value)
