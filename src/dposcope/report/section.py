"""A part of a page in words, figures and tables, for pages whose parts are not known beforehand."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from dposcope.errors import DposcopeError
from dposcope.evaluation.numbers import between, fact, fixed, signed
from dposcope.evaluation.statistics import Difference, Estimate

Cell = str | int | float | Estimate | Difference | None
"""Of a table. A mean or difference stands over its interval; None is a dash."""

_NUMBER = re.compile(r"(?P<value>[+−-]?\d[\d.,]*(e[+−-]?\d+)?( ?[%×])?)( \((?P<interval>[^()]*)\))?(?P<mark>[†*]?)")
"""A number already in words, with its unit, interval and mark: `0.45 × (0.38–0.53)†`."""
_NOTHING = ("", "–", None)


@dataclass(frozen=True)
class SectionFigure:
    """A picture with the words below it."""

    svg: Markup
    """From `figure_svg`, its name unique in the page."""
    caption: str


@dataclass(frozen=True)
class SectionTable:
    """Rows of cells; the first cell names the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        """Refuse ragged rows.

        Raises:
            DposcopeError: there is no column, or a row has not one cell per column.
        """
        if not self.columns:
            raise DposcopeError(f"table {self.caption!r} has no column; name one at least")
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise DposcopeError(
                    f"row {number} of table {self.caption!r} has {len(row)} cells for {len(self.columns)} columns; "
                    "give one each, None where there is no value"
                )

    @property
    def numeric(self) -> list[bool]:
        """Per column: it holds numbers and no words, and is set right-aligned."""
        columns = [
            [row[place] for row in self.rows if row[place] not in _NOTHING] for place in range(len(self.columns))
        ]
        return [bool(column) and all(map(_is_number, column)) for column in columns]


@dataclass(frozen=True)
class Section:
    """Under one heading: text, then figures, then tables."""

    title: str
    text: Sequence[str] = field(default_factory=tuple)
    """Paragraphs."""
    figures: Sequence[SectionFigure] = field(default_factory=tuple)
    tables: Sequence[SectionTable] = field(default_factory=tuple)


@dataclass(frozen=True)
class ShownCell:
    """What a table prints."""

    value: str
    interval: str = ""


def _is_number(cell: Cell) -> bool:
    return not isinstance(cell, str) or _NUMBER.fullmatch(cell) is not None


def shown_cell(cell: Cell) -> ShownCell:
    """A cell in words."""
    match cell:
        case None:
            return ShownCell("–")
        case Estimate():
            return ShownCell(fixed(cell.mean), between(cell.low, cell.high))
        case Difference():
            return ShownCell(signed(cell.mean), between(cell.low, cell.high, sign=True))
        case str() if (parts := _NUMBER.fullmatch(cell)) is not None:
            return ShownCell(f"{parts['value']}{parts['mark']}", parts["interval"] or "")
        case _:
            return ShownCell(fact(cell))
