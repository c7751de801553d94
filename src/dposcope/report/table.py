"""A table: numbers for programs, and the same as cells for people in Markdown, LaTeX and CSV."""

import io
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from dposcope.artefacts import write_atomically, write_text
from dposcope.data.masking import mask_offensive
from dposcope.errors import DposcopeError


@dataclass(frozen=True, eq=False)
class Table:
    """One table of the paper, or one more."""

    name: str
    """Of its files: `table-05-groups`."""
    title: str
    """What it shows, in one sentence; plain text."""
    frame: pl.DataFrame
    """Every number with its interval and n, one row per line of the table or finer; columns have plain names."""
    head: tuple[str, ...]
    """Of the columns that people read."""
    rows: tuple[tuple[str, ...], ...]
    """Their cells: text, formatted numbers."""
    notes: tuple[str, ...] = ()
    """What a reader must know to read it."""

    def __post_init__(self) -> None:
        """Refuse rows of another length than the head."""
        wrong = [row for row in self.rows if len(row) != len(self.head)]
        if wrong:
            raise DposcopeError(
                f"a row of table {self.name} has {len(wrong[0])} cells, its head {len(self.head)}; give one cell each"
            )

    def to_polars(self) -> pl.DataFrame:
        """The numbers."""
        return self.frame

    def of_run(self, *, model: str, protocol: str) -> "Table":
        """With `protocol` and `model` before the other numbers, so that tables of several runs can be put together."""
        return replace(self, frame=of_run(self.frame, model=model, protocol=protocol))

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
        show = _shown(raw)
        flat = self.frame.with_columns(
            [
                pl.Series(name, [_csv_cell(value, show) for value in self.frame[name].to_list()], dtype=pl.String)
                for name, kind in self.frame.schema.items()
                if isinstance(kind, pl.String | pl.List)
            ]
        )
        return flat.write_csv()

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads: the cells, not the numbers behind them."""
        return {
            "name": self.name,
            "title": self.title,
            "head": list(self.head),
            "rows": [list(row) for row in self.rows],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Table":
        """A table of cells; its frame holds the same as text."""
        head, rows = tuple(stored["head"]), tuple(tuple(row) for row in stored["rows"])
        # Two columns may have one heading for people; a frame's names differ.
        names = [f"{name}" if head.index(name) == place else f"{name} ({place})" for place, name in enumerate(head)]
        frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
        return cls(stored["name"], stored["title"], frame, head, rows, tuple(stored["notes"]))

    def save(self, folder: Path, *, raw: bool = False) -> None:
        """Write NAME.parquet, .csv, .md and .tex. Parquet, which nobody reads by eye, keeps words as they are."""
        write_parquet(folder / f"{self.name}.parquet", self.frame)
        write_text(folder / f"{self.name}.csv", self.csv(raw=raw))
        write_text(folder / f"{self.name}.md", self.markdown(raw=raw))
        write_text(folder / f"{self.name}.tex", self.latex(raw=raw))


def of_run(frame: pl.DataFrame, *, model: str, protocol: str) -> pl.DataFrame:
    """Columns `protocol` and `model` before all others, see `led_by`."""
    return led_by(frame, protocol=protocol, model=model)


def led_by(frame: pl.DataFrame, **told: str) -> pl.DataFrame:
    """Columns that are alike in every row, before all others in the order given; where a frame has them they are
    moved."""
    return frame.select(*(pl.lit(value).alias(name) for name, value in told.items()), pl.exclude(*told))


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame atomically."""
    # Through memory: polars reports a full disk as an error of its own.
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    with write_atomically(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _shown(raw: bool) -> Callable[[str], str]:
    return str if raw else mask_offensive


_UNSAFE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb"
    r"\U000e0000-\U000e007f]"
)
"""What would break a line, turn the text around, hide in it or not encode: tokens may hold anything."""


def _plain(text: str) -> str:
    return _UNSAFE.sub("\ufffd", text)


def _markdown_cell(text: str) -> str:
    return re.sub(r"([\\|`*_~$<>\[\]&])", r"\\\1", _plain(text))


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
    return re.sub("-(?=-)", "-{}", "".join(_LATEX.get(letter, letter) for letter in _plain(text)))


def _csv_cell(value: str | list[object] | None, show: Callable[[str], str]) -> str | None:
    match value:
        case None:
            return None
        case str():
            return _plain(show(value))
        case _:
            # Word by word and before JSON, whose escapes end in letters that would run into a word.
            shown = [show(part) if isinstance(part, str) else part for part in value]
            return _UNSAFE.sub(_json_escape, json.dumps(shown, ensure_ascii=False))


def _json_escape(found: re.Match[str]) -> str:
    return json.dumps(found.group())[1:-1]
