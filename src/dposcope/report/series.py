"""Colour, marker and shown name of a series, so that a method looks the same in every figure of every run."""

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

from dposcope.report.figures import COLOURS, INK

_COLOURS = (
    COLOURS["edit"],
    COLOURS["control"],
    COLOURS["part"],
    COLOURS["paper"],
    "#56b4e9",
    "#e69f00",
    INK,
    COLOURS["limit"],
)
_MARKERS = ("D", "^", "s", "v", "X", "P", "o", "h")

_KNOWN = {"learned": 0, "edit": 0, "control": 1, "groups": 2, "least-squares": 3, "ablation alone": 5, "steer": 4}
"""Names that the commands themselves give → place in the palette."""


_LONGEST = 20
"""Characters of a name in a legend."""


@dataclass(frozen=True)
class SeriesStyle:
    """How one series is drawn."""

    colour: str
    marker: str


def series_styles(names: Sequence[str]) -> dict[str, SeriesStyle]:
    """Name → style, fixed by the name; where two names of one figure fall on one place, the later goes to the next.

    Args:
        names: of the series of one figure, at most `MOST_SERIES` for styles that all differ.
    """
    taken: set[int] = set()
    found: dict[str, SeriesStyle] = {}
    for name in dict.fromkeys(names):
        wanted = _KNOWN.get(name, crc32(name.encode("utf-8", "replace")) % len(_COLOURS))
        free = (place % len(_COLOURS) for place in range(wanted, wanted + len(_COLOURS)))
        place = next((one for one in free if one not in taken), wanted)
        taken.add(place)
        found[name] = SeriesStyle(_COLOURS[place], _MARKERS[place])
    return found


def legend_name(name: str) -> str:
    """A name as a legend shows it: the middle of a long one is left out, since its end often tells it from others."""
    if len(name) > _LONGEST:
        name = f"{name[: _LONGEST // 2]}…{name[1 - _LONGEST // 2 :]}"
    # Matplotlib leaves out of a legend what begins with "_".
    return f" {name}" if name.startswith("_") else name
