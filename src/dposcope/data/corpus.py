"""Texts on which an edit should change nothing: neutral text for log-perplexity, passages for F1."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dposcope.data.given.numbers import whole
from dposcope.data.named import located
from dposcope.data.short import short_repr
from dposcope.data.tables import read_table, read_text
from dposcope.data.texts import listed
from dposcope.errors import DposcopeError


@dataclass(frozen=True)
class Passages:
    """Encyclopedic prompts and their true continuations."""

    prompts: tuple[str, ...]
    golds: tuple[str, ...]

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Keep texts as tuples; refuse what is none, and sides of different lengths."""
        for side in ("prompts", "golds"):
            object.__setattr__(self, side, tuple(listed(side, getattr(self, side))))
        if len(self.prompts) != len(self.golds):
            raise DposcopeError(
                f"there are {len(self.prompts)} prompts and {len(self.golds)} golds; give one true continuation for "
                "each prompt"
            )

    def __len__(self) -> int:
        """How many passages."""
        return len(self.prompts)


def check_passages(given: object) -> None:
    """Refuse what is no `Passages`.

    Raises:
        DposcopeError: it is none.
    """
    if not isinstance(given, Passages):
        raise DposcopeError(f"passages is a {type(given).__name__}; give dposcope.load_passages(…), or Passages")


def load_neutral(source: str | Path | None, *, column: str = "text", option: str = "--neutral-column") -> str:
    r"""One text for log-perplexity: the lines of a raw split, joined by two newlines.

    A `.txt` is split at line ends, and its lines are joined by `"\n\n"`. Blank lines and spaces at the ends of lines
    are
    kept: WikiText writes a blank line as one space, so that this space stands between four newlines. In a table or a
    `hub:` data set, each row of `column` is a line, without a newline at its end. The WikiText of the hub has empty
    rows for blank lines, so the space is missing there.

    Args:
        source: a `.txt`, a table or `hub:owner/name`; None: the built-in text.
        column: the column of a table; a `.txt` has none.
        option: the option that chooses another column, for messages.

    Raises:
        DposcopeError: the source cannot be read (`open_table`).
    """
    with located(source, "neutral.txt") as path:
        if Path(path).suffix.lower() == ".txt":
            lines = read_text(path).removesuffix("\n").split("\n")
        else:
            rows = read_table(path, columns=[column], option=option, keep_blank=True).texts(column)
            lines = [row.removesuffix("\n") for row in rows]
    text = "\n\n".join(lines)
    if not text.strip():
        raise DposcopeError(f"{path} has only blank rows in {column!r}; choose another column with {option}")
    return text


def split_neutral(text: str, share: float) -> tuple[str, str]:
    """A text divided into two, between two lines.

    Args:
        text: from `load_neutral`.
        share: share of the first part, in characters; in (0, 1).

    Raises:
        DposcopeError: the text has fewer than two non-blank lines.
    """
    lines = text.split("\n\n")
    ends = np.cumsum([len(line) for line in lines])
    cut = int(np.searchsorted(ends, share * ends[-1])) + 1
    for place in sorted(range(1, len(lines)), key=lambda place: abs(place - cut)):
        parts = "\n\n".join(lines[:place]), "\n\n".join(lines[place:])
        if all(part.strip() for part in parts):
            return parts
    raise DposcopeError("the neutral text is one paragraph and cannot be divided; give a longer one, or two files")


def load_passages(
    source: str | Path | None, *, prompt_column: str = "prompt", gold_column: str = "gold", limit: int | None = None
) -> Passages:
    """Read passages in file order.

    Args:
        source: a table or `hub:owner/name`; None: the built-in passages.
        prompt_column: the column of beginnings.
        gold_column: the column of true continuations.
        limit: keep the first so many; rows with a blank cell are left out before.

    Raises:
        DposcopeError: the source cannot be read (`open_table`), or `limit` is below 1.
    """
    if limit is not None and whole("limit", limit) < 1:
        raise DposcopeError(f"a limit of {limit} leaves no passage; give 1 or more")
    columns = [prompt_column, gold_column]
    with located(source, "passages.jsonl") as path:
        table = read_table(path, columns=columns, option="--passage-prompt-column and --passage-gold-column")
    return Passages(*(tuple(table.texts(column)[:limit]) for column in columns))
