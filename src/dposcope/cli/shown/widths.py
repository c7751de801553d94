"""Widths of columns and lines in a terminal: words may be folded, numbers never."""

import re
from collections.abc import Callable, Sequence
from typing import Final

_NUMBER: Final = re.compile(r"[^\w\s]*\d[\d.,:+–−]*[^\w\s]*")
"""A word that is a number, or an interval without spaces, with brackets and marks: `(0.187–0.251)`, `+0.170*‡`."""
_FOLDED: Final = 12
"""The longest word that a column must not fold."""

Measure = Callable[[str], int]
"""Text → columns of the terminal that it takes."""


def least_width(cells: Sequence[str], measure: Measure) -> int:
    """The narrowest column in which every number stays whole, and every word that is not too long."""
    words = [(measure(word), word) for text in cells for word in text.split()]
    return max((width for width, word in words if width <= _FOLDED or _NUMBER.fullmatch(word)), default=1)


def column_widths(columns: Sequence[Sequence[str]], room: int, measure: Measure) -> list[int] | None:
    """How wide each column is to be.

    Args:
        columns: the texts of each, its heading among them; a text may have several lines.
        room: for all of them together, without what stands between.
        measure: of a text on one line.

    Returns:
        None where there is no room for the numbers. Otherwise room is given to the narrowest column that has a use for
        it, until the room is used or every line is whole.
    """
    widths = [least_width(cells, measure) for cells in columns]
    whole = [max((measure(line) for text in cells for line in text.split("\n")), default=1) for cells in columns]
    left = room - sum(widths)
    if left < 0:
        return None
    while left and (narrow := [place for place, width in enumerate(widths) if width < whole[place]]):
        widths[min(narrow, key=lambda place: widths[place])] += 1
        left -= 1
    return widths


def wrapped(text: str, room: int, measure: Measure) -> list[str]:
    """A text in lines that break between words alone; a word that is longer than the room has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and measure(f"{lines[-1]} {word}") <= room:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
