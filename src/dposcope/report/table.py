"""A table: a frame of numbers and a list of columns to show. HTML, Markdown, LaTeX, CSV and terminal text derive from
it."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NotRequired

import polars as pl
from polars.exceptions import PolarsError
from typing_extensions import TypedDict

from dposcope.artefacts import write_atomically, write_text
from dposcope.data.masking import mask_offensive
from dposcope.data.pandas_frames import ToPandas
from dposcope.errors import DposcopeError, first_line
from dposcope.evaluation.numbers import NOTHING, TEXT, Format, too_few
from dposcope.foreign_text import blanked, json_text, markdown


class StoredColumn(TypedDict):
    """A `Column` in a file."""

    name: str
    label: str
    format: str
    interval: tuple[str, str] | None
    mark: str | None
    formats: str | None
    items: NotRequired[str | None]


class _StoredSeries(TypedDict):
    type: str
    values: list[Any]


class StoredTable(TypedDict):
    """A `Table` in a file."""

    name: str
    title: str
    number: int | None
    columns: list[StoredColumn]
    notes: list[str]
    frame: dict[str, _StoredSeries]
    view: dict[str, _StoredSeries] | None


@dataclass(frozen=True)
class Column:
    """One shown column."""

    name: str
    """The frame's column with the values."""
    label: str
    """Its heading."""
    format: Format = TEXT
    interval: tuple[str, str] | None = None
    """The frame's columns of the low and the high end, shown in brackets after the value; null ends are not shown."""
    mark: str | None = None
    """The frame's column of marks, such as †, shown after value and interval."""
    formats: str | None = None
    """The frame's column with the name of each line's format, if formats differ by line; replaces `format`."""
    items: str | None = None
    """The frame's column with the number of items, shown where they were too few for an interval."""

    @classmethod
    def ranged(cls, name: str, label: str, format: Format, *, mark: str | None = None) -> "Column":
        """A column with an interval in `NAME_low` and `NAME_high`."""
        return cls(name, label, format, (f"{name}_low", f"{name}_high"), mark)

    @classmethod
    def measured(cls, name: str, label: str, format: Format, *, mark: str | None = None) -> "Column":
        """A column of a statistic, in the four columns that `columns_of` makes."""
        return replace(cls.ranged(name, label, format, mark=mark), items=f"{name}_n")

    @property
    def sources(self) -> tuple[str, ...]:
        """All columns of the frame that it uses."""
        used = (self.name, *(self.interval or ()), self.mark, self.formats, self.items)
        return tuple(name for name in used if name is not None)

    @property
    def numeric(self) -> bool:
        """Whether it is aligned as numbers."""
        return self.formats is not None or self.format.numeric

    def cell(self, line: Mapping[str, Any]) -> "Cell":
        """The cell of one line of the frame."""
        value, mark = line[self.name], line[self.mark] if self.mark else None
        if value is None:
            return Cell(NOTHING, mark=mark or "")
        form = Format.named(line[self.formats]) if self.formats else self.format
        low, high = (line[end] for end in self.interval) if self.interval else (None, None)
        n = line[self.items] if self.items else None
        few = "" if n is None else too_few(n)
        interval = few if low is None or high is None else form.interval(low, high)
        return Cell(form.value(value), interval, mark or "")

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {
            "name": self.name,
            "label": self.label,
            "format": str(self.format),
            "interval": None if self.interval is None else list(self.interval),
            "mark": self.mark,
            "formats": self.formats,
            "items": self.items,
        }

    @classmethod
    def from_json(cls, stored: StoredColumn) -> "Column":
        """What `to_json` wrote."""
        form, ends = Format.named(stored["format"]), stored["interval"]
        interval = None if ends is None else (ends[0], ends[1])
        return cls(
            stored["name"], stored["label"], form, interval, stored["mark"], stored["formats"], stored.get("items")
        )


@dataclass(frozen=True)
class Cell:
    """The texts of one cell."""

    value: str
    interval: str = ""
    mark: str = ""

    def __str__(self) -> str:
        """On one line."""
        return f"{self.value}{f' ({self.interval})' if self.interval else ''}{self.mark}"


@dataclass(frozen=True, eq=False)
class Table(ToPandas):
    """A table of the paper, or a further one."""

    name: str
    """Name of its files: `table-05-groups`."""
    title: str
    """What it shows, in one sentence; plain text."""
    frame: pl.DataFrame
    """All numbers with intervals and n; at least one row per line of the table."""
    columns: tuple[Column, ...]
    """The shown columns, in order."""
    notes: tuple[str, ...] = ()
    """Notes below the table."""
    view: pl.DataFrame | None = None
    """The shown lines, if they differ from `frame`: fewer, summed, or side by side."""
    number: int | None = None
    """Number of the paper's table; None if the paper has no such table."""

    def __post_init__(self) -> None:
        """Check that the frame has every shown column."""
        missing = [name for column in self.columns for name in column.sources if name not in self.lines.columns]
        if missing or not self.columns:
            raise DposcopeError(
                f"table {self.name} shows {', '.join(missing) or 'nothing'}, and its frame has "
                f"{', '.join(self.lines.columns) or 'no column'}; name columns of the frame"
            )

    @property
    def lines(self) -> pl.DataFrame:
        """The shown lines."""
        return self.frame if self.view is None else self.view

    @property
    def head(self) -> tuple[str, ...]:
        """The headings."""
        return tuple(column.label for column in self.columns)

    @property
    def note(self) -> str:
        """The notes in one line."""
        return " ".join(self.notes)

    @cached_property
    def cells(self) -> tuple[tuple[Cell, ...], ...]:
        """Line by line."""
        return tuple(tuple(column.cell(line) for column in self.columns) for line in self.lines.iter_rows(named=True))

    @property
    def rows(self) -> tuple[tuple[str, ...], ...]:
        """The cells as text."""
        return tuple(tuple(map(str, line)) for line in self.cells)

    def to_polars(self) -> pl.DataFrame:
        """The numbers."""
        return self.frame

    def of_run(self, *, model: str, fingerprint: str, protocol: str) -> "Table":
        """With `protocol`, `model` and `fingerprint` first, so that tables of several runs can be joined."""
        return replace(self, frame=of_run(self.frame, model=model, fingerprint=fingerprint, protocol=protocol))

    def markdown(self, *, raw: bool = False) -> str:
        """With its title above and notes below; offensive words are starred unless `raw`."""
        show = _shown(raw)
        lines = [self.head, ("---",) * len(self.head), *self.rows]
        table = "\n".join(f"| {' | '.join(_markdown_cell(show(cell)) for cell in line)} |" for line in lines)
        below = "".join(f"\n{_markdown_cell(show(note))}\n" for note in self.notes)
        return f"**{_markdown_cell(show(self.title))}**\n\n{table}\n{below}"

    def latex(self, *, raw: bool = False) -> str:
        """A `table` environment with rules of `booktabs`; offensive words are starred unless `raw`.

        Scripts other than Latin need LuaLaTeX or XeLaTeX and a font that has them.
        """
        show = _shown(raw)
        lines = [" & ".join(_latex(show(cell)) for cell in line) + r" \\" for line in (self.head, *self.rows)]
        caption = _latex(show(" ".join([self.title, *self.notes])))
        body = "\n".join(["\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"])
        return (
            f"\\begin{{table}}\n\\centering\n\\caption{{{caption}}}\n\\begin{{tabular}}{{{'l' * len(self.head)}}}\n"
            f"{body}\n\\end{{tabular}}\n\\end{{table}}\n"
        )

    def csv(self, *, raw: bool = False) -> str:
        """The numbers as text; lists as JSON, control characters escaped. Offensive words are starred unless `raw`."""
        return csv_text(self.frame, _shown(raw))

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads: every number, and how it is shown."""
        return {
            "name": self.name,
            "title": self.title,
            "number": self.number,
            "columns": [column.to_json() for column in self.columns],
            "notes": list(self.notes),
            "frame": _frame_to_json(self.frame),
            "view": None if self.view is None else _frame_to_json(self.view),
        }

    @classmethod
    def from_json(cls, stored: StoredTable) -> "Table":
        """The same table.

        Raises:
            DposcopeError: its values are not those that its columns show.
        """
        try:
            table = cls(
                stored["name"],
                stored["title"],
                _frame_from_json(stored["frame"]),
                tuple(map(Column.from_json, stored["columns"])),
                tuple(stored["notes"]),
                None if stored["view"] is None else _frame_from_json(stored["view"]),
                stored["number"],
            )
            _ = table.cells  # each is formatted by its kind
        except (KeyError, TypeError, ValueError, OverflowError, PolarsError) as error:
            raise DposcopeError(f"table {stored['name']!r} is damaged ({first_line(error)})") from error
        return table

    def save(self, folder: Path, *, raw: bool = False) -> None:
        """Write NAME.parquet, .csv, .md and .tex. Words in the Parquet file are never masked."""
        write_parquet(folder / f"{self.name}.parquet", self.frame)
        write_text(folder / f"{self.name}.csv", self.csv(raw=raw))
        write_text(folder / f"{self.name}.md", self.markdown(raw=raw))
        write_text(folder / f"{self.name}.tex", self.latex(raw=raw))


def frame_of(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows with equal keys as a frame; a column that has only nulls becomes Float64."""
    return pl.DataFrame(rows, infer_schema_length=None).cast({pl.Null: pl.Float64})


_TYPES: Mapping[str, pl.DataType] = {
    str(kind): kind
    for one in (pl.Int64(), pl.Int32(), pl.UInt32(), pl.UInt8(), pl.Float64(), pl.Float32(), pl.String(), pl.Boolean())
    for kind in (one, pl.List(one))
}
"""By their names in JSON."""


def _frame_to_json(frame: pl.DataFrame) -> dict[str, Any]:
    return {name: {"type": str(kind), "values": frame[name].to_list()} for name, kind in frame.schema.items()}


def _frame_from_json(stored: Mapping[str, _StoredSeries]) -> pl.DataFrame:
    return pl.DataFrame(
        [pl.Series(name, one["values"], dtype=_TYPES[one["type"]], strict=True) for name, one in stored.items()]
    )


def of_run(frame: pl.DataFrame, *, model: str, fingerprint: str, protocol: str) -> pl.DataFrame:
    """Columns `protocol`, `model` and `fingerprint` before all others, see `led_by`."""
    return led_by(frame, protocol=protocol, model=model, fingerprint=fingerprint)


def led_by(frame: pl.DataFrame, **columns: str) -> pl.DataFrame:
    """Put constant columns before all others, in the order given, replacing columns of the same name."""
    return frame.select(*(pl.lit(value).alias(name) for name, value in columns.items()), pl.exclude(*columns))


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame atomically."""
    # Write through memory: polars raises its own error for a full disk.
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    with write_atomically(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def csv_text(frame: pl.DataFrame, show: Callable[[str], str] = str) -> str:
    """A frame as CSV; `show` turns each word into what is written of it. See `Table.csv`."""
    flat = frame.with_columns(
        [
            pl.Series(name, [_csv_cell(value, show) for value in frame[name].to_list()], dtype=pl.String)
            for name, kind in frame.schema.items()
            if isinstance(kind, pl.String | pl.List)
        ]
    )
    return flat.write_csv()


def _shown(raw: bool) -> Callable[[str], str]:
    return str if raw else mask_offensive


def _markdown_cell(text: str) -> str:
    return markdown(text, most=None)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "\ufffd": "?",
    # After the end of a row both would belong to its \\.
    "[": "{[}",
    "*": "{*}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "−": "$-$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "·": r"$\cdot$",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "λ": r"$\lambda$",
    "σ": r"$\sigma$",
    "κ": r"$\kappa$",
    "ρ": r"$\rho$",
    "Δ": r"$\Delta$",
    "Σ": r"$\Sigma$",
    "†": r"\textdagger{}",
    "°": r"\textdegree{}",
    "…": r"\ldots{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def _latex(text: str) -> str:
    # Two hyphens would become a dash.
    return re.sub("-(?=-)", "-{}", "".join(_LATEX.get(letter, letter) for letter in blanked(text)))


def _csv_cell(value: str | list[object] | None, show: Callable[[str], str]) -> str | None:
    match value:
        case None:
            return None
        case str():
            return blanked(show(value))
        case _:
            # Mask each word before JSON: the letter of an escape such as \n would join the next word.
            shown = [show(part) if isinstance(part, str) else part for part in value]
            return json_text(shown, indent=None)


def clear_others(folder: Path, names: set[str]) -> None:
    """Remove the files of tables or figures that a report no longer has, whatever their format.

    Args:
        folder: of nothing but such files.
        names: of those that stay.
    """
    for file in folder.glob("*"):
        if file.is_file() and not file.name.startswith(".") and file.stem not in names:
            file.unlink()
