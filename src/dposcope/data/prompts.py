"""Prompts that models continue, and the split that keeps learning apart from reporting."""

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
    """What every reported number is measured on."""
    learn: tuple[str, ...]
    """What anything learned, sampled, searched or averaged may use."""


def load_prompts(source: str | Path | None, *, column: str = "prompt", limit: int | None = None) -> list[str]:
    """Read prompts in file order.

    Args:
        source: a table, a text file of one prompt a line, or `hub:owner/name`; None: the built-in prompts.
            Cells may be objects with a `text`, as in RealToxicityPrompts.
        column: the column that holds them.
        limit: keep the first so many, those left out for being blank not counted.

    Raises:
        DposcopeError: the source cannot be read (`open_table`), or `limit` is below 1.
    """
    if limit is not None and limit < 1:
        raise DposcopeError(f"a limit of {limit} leaves no prompt; give 1 or more")
    with located(source, "prompts.jsonl") as path:
        return read_table(path, columns=[column], option="--prompt-column").texts(column)[:limit]


def split_prompts(prompts: Sequence[str]) -> PromptSplit:
    """Report on the first half, learn from the second (SPEC 8: rows 1–200 and 201–400 of 400).

    A prompt that stands in both halves is left out of what is learned from. An odd prompt
    goes to the first.

    Raises:
        DposcopeError: fewer than 4 prompts, or no second half is left of repeated ones.
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
