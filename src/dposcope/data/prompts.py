"""Prompts that models continue, and their split: prompts to report on, to choose on, and to learn from."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dposcope.data.given.numbers import whole
from dposcope.data.named import located
from dposcope.data.short import short_repr
from dposcope.data.tables import read_table
from dposcope.data.texts import listed
from dposcope.errors import DposcopeError, plural
from dposcope.protocols import Split, check_choice


@dataclass(frozen=True)
class PromptSplit:
    """Prompts by what they are for. `split_prompts` says which of the parts share no text."""

    report: tuple[str, ...]
    """Every reported number is measured on these, and nothing else reads them."""
    choose: tuple[str, ...]
    """To search, and to choose among what was learned."""
    learn: tuple[str, ...]
    """To sample pairs and to average over."""
    left_out: int = 0
    """Prompts that are not learned from or chosen on, because a file of prompts to report on has them, too."""

    __repr__ = short_repr


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
    if limit is not None and whole("limit", limit) < 1:
        raise DposcopeError(f"a limit of {limit} leaves no prompt; give 1 or more")
    with located(source, "prompts.jsonl") as path:
        return read_table(path, columns=[column], option="--prompt-column").texts(column)[:limit]


def load_split(
    source: str | Path | None,
    how: Split = "halves",
    *,
    report: str | Path | None = None,
    column: str = "prompt",
    limit: int | None = None,
) -> PromptSplit:
    """Read prompts and split them.

    Args:
        source: see `load_prompts`.
        how: see `split_prompts`.
        report: a second source, of prompts to report on; None: they are part of the first. All of it is used.
        column: the column that holds the prompts of both sources.
        limit: of the first source.

    Raises:
        DposcopeError: a source cannot be read or split.
    """
    prompts = load_prompts(source, column=column, limit=limit)
    return split_prompts(prompts, how, report=None if report is None else load_prompts(report, column=column))


def split_prompts(prompts: Sequence[str], how: Split = "halves", *, report: Sequence[str] | None = None) -> PromptSplit:
    """Split prompts by what they are for.

    halves: report on the first half; choose on the second and learn from it (of 400 prompts, rows 1–200 and
    201–400). three-way: report on the first half, choose on the third quarter, learn from the fourth. same: all prompts
    for everything, as the paper does.

    With prompts of their own to report on, halves and three-way are the same: choose on the first half, learn from the
    second; and same means: choose on all prompts and learn from them.

    A text is never in two parts that come from different rows: it stays in the part to report on, else in the part to
    choose on. Of an odd number of prompts, the part that comes first gets one more.

    Args:
        prompts: in file order.
        how: see above.
        report: other prompts, to report on; None: they are among `prompts`.

    Raises:
        DposcopeError: there are fewer than 4 prompts to split, or fewer than 2 to report on; or nothing is left to
            choose on or to learn from, since other parts have the same texts.
    """
    check_choice("how", how, ("halves", "three-way", "same"))
    prompts = listed("prompts", prompts)
    report = None if report is None else listed("report", report)
    if report is not None and len(report) < 2:
        raise DposcopeError(f"{plural(len(report), 'prompt')} to report on is too few; give at least 2")
    reported = set(report or ())
    left_out = sum(prompt in reported for prompt in prompts)
    if how == "same":
        rest = _without(prompts, reported)
        return _told(PromptSplit(tuple(prompts if report is None else report), rest, rest, left_out))
    if len(prompts) < 4:
        raise DposcopeError(
            f"{plural(len(prompts), 'prompt')} cannot be split into parts to learn from and to report or choose on; "
            "give at least 4"
        )
    parts = _halves(prompts)
    if report is not None:
        choose = _without(parts.first, reported)
        return _told(PromptSplit(tuple(report), choose, _without(parts.second, {*reported, *choose}), left_out))
    rest = _without(parts.second, parts.first)
    if how == "halves":
        return _told(PromptSplit(parts.first, rest, rest))
    quarters = _halves(rest)
    return _told(PromptSplit(parts.first, quarters.first, _without(quarters.second, quarters.first)))


@dataclass(frozen=True)
class _Halves:
    first: tuple[str, ...]
    second: tuple[str, ...]


def _halves(prompts: Sequence[str]) -> _Halves:
    half = (len(prompts) + 1) // 2
    return _Halves(tuple(prompts[:half]), tuple(prompts[half:]))


def _without(prompts: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    known = set(others)
    return tuple(prompt for prompt in prompts if prompt not in known)


def _told(split: PromptSplit) -> PromptSplit:
    """The split itself.

    Raises:
        DposcopeError: nothing is left to choose on or to learn from.
    """
    if split.choose and split.learn:
        return split
    if split.left_out:
        raise DposcopeError(
            "the prompts to report on leave no others to choose on or to learn from; give more distinct --prompts"
        )
    if split.choose:
        raise DposcopeError(
            "the second half of the prompts has too few other texts to choose on some and learn from the rest; give "
            "more distinct prompts"
        )
    raise DposcopeError("the second half of the prompts only repeats the first; give more distinct prompts")
