"""The paper's numbers as printed, and its contradictions.

They are in `printed/`, one file per table and one for numbers in the text. The README there explains the columns.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Any

import polars as pl

from dposcope.errors import DposcopeError
from dposcope.protocols import check_choice

TABLES = ("2", "3", "5", "8", "9", "10", "11", "12", "13", "17", "18", "19", "text")
"""The paper's tables of numbers, and `text` for numbers in sentences and captions."""

EVERY_MODEL = "all"
"""The model of a number that the paper gives for all four models."""


@dataclass(frozen=True)
class PaperValue:
    """One number (or word) of the paper."""

    table: str
    """One of `TABLES`."""
    part: str
    """Part of the table; for a number in the text, its section, appendix or caption."""
    row: str
    """The row, with the same name in every table: `none`, `dpo`, `patch TP↓`, `edit`, `neurons` …"""
    model: str
    """The name in most tables, such as `GPT-2-355M`, or `EVERY_MODEL`."""
    direction: str | None
    """Method of the direction: `probe`, or `token_contrast` (probe-free)."""
    alpha: float | None
    """α of an edit or of steering."""
    beta: float | None
    """β of an edit."""
    ranking: str | None
    """Ranking of neurons: `cosine` (descending cosine similarity) or `activation` (ascending absolute activation)."""
    measure: str
    """`toxicity`, `logppl`, `f1`, `share_of_dpo`, `neurons`, `of_reducing`, `negative` …"""
    printed: str
    """Exactly as printed, with trailing zeros and signs."""

    @property
    def value(self) -> float | None:
        """As a number, `19.7%` as 0.197; None for words, bounds, ranges and rounded figures (`around 50%`)."""
        return _number(self.printed)

    @property
    def percent(self) -> bool:
        """Whether it is printed as a percentage."""
        return self.printed.endswith("%")

    @property
    def places(self) -> int:
        """Decimal places as printed; of a percentage, those before the percent sign."""
        return len(self.printed.rstrip("%").partition(".")[2].split(" ")[0])

    @property
    def place(self) -> str:
        """Its place in the paper, for a reader: `Table 2`, `section 5.1`, `appendix E`, `caption of Table 18`."""
        if self.table != "text":
            return f"Table {self.table}"
        return _place(self.part)


@dataclass(frozen=True)
class Contradiction:
    """Two statements of the paper that cannot both be true."""

    kind: str
    """`printed twice`, `arithmetic`, `claim` (a sentence against numbers), `definition`, or `reference`."""
    model: str
    row: str
    measure: str
    place: str
    """Place of the first statement: a table, a section, an appendix, a caption."""
    value: str
    """The first statement, exactly as printed."""
    other_place: str
    other_value: str
    """The second statement, exactly as printed or computed from the printed numbers."""
    note: str

    def against(self, value: PaperValue) -> tuple[str, str] | None:
        """(place, printed) of the contradicting value; None if this contradiction is about another value."""
        mine = (self.kind, self.model, self.row, self.measure)
        if mine != ("printed twice", value.model, value.row, value.measure):
            return None
        match value.place, value.printed:
            case self.place, self.value:
                return self.other_place, self.other_value
            case self.other_place, self.other_value:
                return self.place, self.value
            case _:
                return None


def paper_frame() -> pl.DataFrame:
    """All printed values, one per row. All columns are text; blank cells are null."""
    return _frame()


def paper_values(
    *, table: str | None = None, model: str | None = None, measure: str | None = None, row: str | None = None
) -> list[PaperValue]:
    """Printed values, in the paper's order.

    Args:
        table: one of `TABLES`; None: all.
        model: as `PaperValue.model`; values for all models are included for every model.
        measure: as `PaperValue.measure`.
        row: as `PaperValue.row`.

    Raises:
        DposcopeError: there is no such table or model in the paper.
    """
    chosen = _frame()
    if table is not None:
        check_choice("table", table, TABLES)
        chosen = chosen.filter(pl.col("table") == table)
    if model is not None:
        check_choice("model", model, tuple(_frame()["model"].unique(maintain_order=True).to_list()))
        chosen = chosen.filter(pl.col("model").is_in([model, EVERY_MODEL]))
    for name, wanted in (("measure", measure), ("row", row)):
        if wanted is not None:
            chosen = chosen.filter(pl.col(name) == wanted)
    return [_value(one) for one in chosen.iter_rows(named=True)]


@cache
def contradictions() -> tuple[Contradiction, ...]:
    """All known contradictions of the paper."""
    return tuple(Contradiction(**one) for one in _read("contradictions.csv").fill_null("").iter_rows(named=True))


def printed_otherwise(value: PaperValue) -> list[tuple[str, str]]:
    """(place, printed) wherever the paper prints the same value differently."""
    return [other for one in contradictions() if (other := one.against(value)) is not None]


@cache
def _frame() -> pl.DataFrame:
    names = [f"table-{int(table):02}.csv" for table in TABLES if table != "text"]
    return pl.concat([_read(name) for name in (*names, "text.csv")])


def _read(name: str) -> pl.DataFrame:
    data = resources.files("dposcope.paper").joinpath("printed", name).read_bytes()
    try:
        return pl.read_csv(data, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise DposcopeError(f"the paper's {name} is damaged: {error}; install dposcope again") from error


def _value(cells: dict[str, Any]) -> PaperValue:
    settings = {name: None if cells[name] is None else float(cells[name]) for name in ("alpha", "beta")}
    typed: dict[str, Any] = {**cells, "part": cells["part"] or "", **settings}
    return PaperValue(**typed)


_POWER = re.compile(r"(\d)×10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_WITH_UNIT = re.compile(r"(\d[\d,]*(?:\.\d+)?)(%?)(?: \(?[a-z].*)?")
"""A number, with or without words after it: `256 tokens`."""
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def _number(printed: str) -> float | None:
    if power := _POWER.fullmatch(printed):
        return float(f"{power[1]}e{power[2].translate(_RAISED)}")
    match = _WITH_UNIT.fullmatch(printed)
    if match is None:
        return None
    # In decimal arithmetic, as 16.71 / 100 in binary is not 0.1671.
    number = Decimal(match[1].replace(",", ""))
    return float(number / 100 if match[2] else number)


def _place(part: str) -> str:
    if part[0].isdigit():
        return f"section {part}"
    return f"appendix {part}" if len(part) == 1 else part
