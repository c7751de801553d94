"""Data sets of the Hugging Face hub, through the optional `datasets` library."""

import re
from importlib import import_module
from typing import Any, Final

import polars as pl

from dposcope.errors import DposcopeError

_SPEC: Final = re.compile(
    r"hub:(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?:@(?P<split>[\w.+-]+))?"
    r"(?:\?(?P<column>[\w.-]+)=(?P<value>[\w.+-]+))?",
    flags=re.ASCII,
)


def is_hub_spec(source: str) -> bool:
    """Whether `source` reads `hub:OWNER/NAME`, with `/CONFIG`, `@SPLIT` and `?COLUMN=VALUE` if wanted."""
    return _SPEC.fullmatch(source) is not None


def read_hub(spec: str) -> dict[str, list[Any]]:
    """The columns of `hub:OWNER/NAME[/CONFIG][@SPLIT][?COLUMN=VALUE]`; a data set of one split needs no `@SPLIT`.

    `?COLUMN=VALUE` keeps the rows that hold the value, upper and lower case alike: the challenging prompts of
    RealToxicityPrompts, 1,199 of them, are `hub:allenai/real-toxicity-prompts?challenging=true`.

    Raises:
        DposcopeError: `datasets` is not installed; the data set cannot be had; the split is open; no row is kept.
    """
    match = _SPEC.fullmatch(spec)
    assert match is not None, spec
    try:
        datasets = import_module("datasets")
    except ModuleNotFoundError as error:
        raise DposcopeError(
            f"{spec} needs the datasets library; pip install 'dposcope[hub]', or give a local file"
        ) from error
    try:
        splits = datasets.load_dataset(match["name"], match["config"])
    # It raises these for what does not exist, is gated or out of reach, and for a wrong config.
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DposcopeError(
            f"cannot load {spec} ({reason}); check owner, name, config (hub:owner/name/config) and connection"
        ) from error
    split = match["split"] or (next(iter(splits)) if len(splits) == 1 else None)
    if split not in splits:
        asked = f"has no split {split!r}" if split else "has several splits"
        base = spec.partition("@")[0]
        raise DposcopeError(f"{base} {asked}; choose one: {', '.join(f'{base}@{name}' for name in splits)}")
    table = splits[split].to_polars()
    if match["column"] is not None:
        table = _kept(table, match["column"], match["value"], spec)
    return table.to_dict(as_series=False)


def _kept(table: pl.DataFrame, column: str, value: str, spec: str) -> pl.DataFrame:
    if column not in table.columns:
        raise DposcopeError(f"{spec}: no column {column!r}; choose one of {', '.join(table.columns)}")
    if table[column].dtype.is_nested():
        raise DposcopeError(f"{spec}: {column!r} holds lists or objects; choose a column of single values")
    kept = table.filter(pl.col(column).cast(pl.String).str.to_lowercase() == value.lower())
    if kept.is_empty():
        raise DposcopeError(f"{spec}: no row has the {column} {value!r}; see what that column holds")
    return kept
