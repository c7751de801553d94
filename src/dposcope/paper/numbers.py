"""The paper's numbers as printed, and where it contradicts itself (SPEC section 3).

They lie in `paper/`, one file per table and one for numbers in running text; the README there says what columns mean.
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
"""What there is: the paper's tables of numbers, and `text` for numbers in sentences and captions."""

EVERY_MODEL = "all"
"""The model of a number that the paper gives for all four at once."""


@dataclass(frozen=True)
class PaperValue:
    """One number, or word, of the paper."""

    table: str
    """One of `TABLES`."""
    part: str
    """Of the table; of a number in the text its section, appendix or caption."""
    row: str
    """What it belongs to, by one name in every table: `none`, `dpo`, `patch TP↓`, `edit`, `neurons` …"""
    model: str
    """As most tables print it, such as `GPT-2-355M`, or `EVERY_MODEL`."""
    direction: str | None
    """What it was made with: `probe`, or `token_contrast` (probe-free)."""
    alpha: float | None
    """α of an edit or of steering."""
    beta: float | None
    """β of an edit."""
    ranking: str | None
    """Of an edit's neurons: `cosine` (descending cosine similarity) or `activation` (ascending absolute activation)."""
    measure: str
    """`toxicity`, `logppl`, `f1`, `share_of_dpo`, `neurons`, `of_reducing`, `negative` …"""
    printed: str
    """To the letter, with its trailing zeros and signs."""

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
        """Decimal places as printed; of a percentage those before the sign."""
        return len(self.printed.rstrip("%").partition(".")[2].split(" ")[0])

    @property
    def place(self) -> str:
        """Where it stands, for people: `Table 2`, `section 5.1`, `appendix E`, `caption of Table 18`."""
        if self.table != "text":
            return f"Table {self.table}"
        return _place(self.part)


@dataclass(frozen=True)
class Contradiction:
    """Two statements of the paper of which at most one can hold."""

    kind: str
    """`printed twice`, `arithmetic`, `claim` (a sentence against numbers), `definition`, or `reference`."""
    model: str
    row: str
    measure: str
    place: str
    """Of the first statement: a table, a section, an appendix, a caption."""
    value: str
    """What it says, to the letter."""
    other_place: str
    other_value: str
    """To the letter, or computed from what is printed there."""
    note: str

    def against(self, value: PaperValue) -> tuple[str, str] | None:
        """Where a value is printed otherwise, and how; None where this is about something else."""
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
    """Everything, one row per printed value, all columns text; blank cells are null."""
    return _frame()


def paper_values(
    *, table: str | None = None, model: str | None = None, measure: str | None = None, row: str | None = None
) -> list[PaperValue]:
    """Printed values, in the paper's order.

    Args:
        table: one of `TABLES`; None: all.
        model: as `PaperValue.model`; what the paper gives for all models at once comes with every model.
        measure: as `PaperValue.measure`.
        row: as `PaperValue.row`.

    Raises:
        DposcopeError: no such table, or the paper has no such model.
    """
    found = _frame()
    if table is not None:
        check_choice("table", table, TABLES)
        found = found.filter(pl.col("table") == table)
    if model is not None:
        check_choice("model", model, tuple(_frame()["model"].unique(maintain_order=True).to_list()))
        found = found.filter(pl.col("model").is_in([model, EVERY_MODEL]))
    for name, wanted in (("measure", measure), ("row", row)):
        if wanted is not None:
            found = found.filter(pl.col(name) == wanted)
    return [_value(one) for one in found.iter_rows(named=True)]


@cache
def contradictions() -> tuple[Contradiction, ...]:
    """Every contradiction of the paper with itself that was found."""
    return tuple(Contradiction(**one) for one in _read("contradictions.csv").fill_null("").iter_rows(named=True))


def printed_otherwise(value: PaperValue) -> list[tuple[str, str]]:
    """Where else the paper prints the same value differently: (place, printed)."""
    return [found for one in contradictions() if (found := one.against(value)) is not None]


@cache
def _frame() -> pl.DataFrame:
    names = [f"table-{int(table):02}.csv" for table in TABLES if table != "text"]
    return pl.concat([_read(name) for name in (*names, "text.csv")])


def _read(name: str) -> pl.DataFrame:
    data = resources.files("dposcope.paper").joinpath("printed", name).read_bytes()
    try:
        return pl.read_csv(data, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise DposcopeError(f"the paper's {name} is damaged: {error}; install dposcope anew") from error


def _value(cells: dict[str, Any]) -> PaperValue:
    settings = {name: None if cells[name] is None else float(cells[name]) for name in ("alpha", "beta")}
    typed: dict[str, Any] = {**cells, "part": cells["part"] or "", **settings}
    return PaperValue(**typed)


_POWER = re.compile(r"(\d)×10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_PLAIN = re.compile(r"(\d[\d,]*(?:\.\d+)?)(%?)(?: \(?[a-z].*)?")
"""A number, or one with words behind it: `256 tokens`."""
_RAISED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")


def _number(printed: str) -> float | None:
    if power := _POWER.fullmatch(printed):
        return float(f"{power[1]}e{power[2].translate(_RAISED)}")
    plain = _PLAIN.fullmatch(printed)
    if plain is None:
        return None
    # In decimals: 16.71 / 100 in binary is not the 0.1671 that was printed.
    number = Decimal(plain[1].replace(",", ""))
    return float(number / 100 if plain[2] else number)


def _place(part: str) -> str:
    if part[0].isdigit():
        return f"section {part}"
    return f"appendix {part}" if len(part) == 1 else part
