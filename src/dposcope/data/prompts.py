"""Prompts that models continue, and their split into held-out prompts and prompts to learn from."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dposcope.data.named import located
from dposcope.data.tables import read_table
from dposcope.errors import DposcopeError, plural


@dataclass(frozen=True)
class PromptSplit:
    """Two disjoint halves of one list of prompts (SPEC 8)."""

    report: tuple[str, ...]
    """Held-out prompts: every reported number is measured on these."""
    learn: tuple[str, ...]
    """Prompts to learn, sample, search or average on."""


def load_prompts(source: str | Path | None, *, column: str = "prompt", limit: int | None = None) -> list[str]:
    """Read prompts in file order.

    Args:
        source: a table, a text file with one prompt per line, or `hub:owner/name`; None: the built-in prompts.
            Cells may be objects with a `text`, as in RealToxicityPrompts.
        column: the column that holds them.
        limit: keep the first so many; blank rows are left out before.

    Raises:
        DposcopeError: the source cannot be read (`open_table`), or `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise DposcopeError(f"a limit of {limit} leaves no prompt; give 1 or more")
    with located(source, "prompts.jsonl") as path:
        return read_table(path, columns=[column], option="--prompt-column").texts(column)[:limit]


def split_prompts(prompts: Sequence[str]) -> PromptSplit:
    """Report on the first half, learn from the second (SPEC 8: rows 1–200 and 201–400 of 400).

    A prompt that is in both halves is removed from the second. Of an odd number, the first half gets one more.

    Raises:
        DposcopeError: there are fewer than 4 prompts, or the second half only repeats the first.
    """
    if len(prompts) < 4:
        raise DposcopeError(
            f"{plural(len(prompts), 'prompt')} cannot be split into a half to learn from and a half to report on; "
            "give at least 4"
        )
    half = (len(prompts) + 1) // 2
    report = tuple(prompts[:half])
    seen = set(report)
    learn = tuple(prompt for prompt in prompts[half:] if prompt not in seen)
    if not learn:
        raise DposcopeError("the second half of the prompts only repeats the first; give more distinct prompts")
    return PromptSplit(report, learn)
