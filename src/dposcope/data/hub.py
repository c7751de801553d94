"""Data sets of the Hugging Face hub, through the optional `datasets` library."""

import re
from importlib import import_module
from typing import Any, Final

import polars as pl

from dposcope.errors import DposcopeError, first_line

_SPEC: Final = re.compile(
    r"hub:(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<config>[\w.-]+))?(?:@(?P<split>[\w.+-]+))?"
    r"(?:\?(?P<column>[\w.-]+)=(?P<value>[\w.+-]+))?",
    flags=re.ASCII,
)


def is_hub_spec(source: str) -> bool:
    """Whether `source` has the form `hub:OWNER/NAME`, optionally with `/CONFIG`, `@SPLIT` and `?COLUMN=VALUE`."""
    return _SPEC.fullmatch(source) is not None


def read_hub(spec: str) -> dict[str, list[Any]]:
    """The columns of `hub:OWNER/NAME[/CONFIG][@SPLIT][?COLUMN=VALUE]`; `@SPLIT` may be left out if there is one split.

    `?COLUMN=VALUE` keeps the rows with that value, in upper or lower case. The 1,199 challenging prompts of
    RealToxicityPrompts are `hub:allenai/real-toxicity-prompts?challenging=true`.

    Raises:
        DposcopeError: `datasets` is not installed, the data set cannot be loaded, it has several splits and none is
            chosen, or no row has the value.
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
    # Raised if the data set does not exist, is gated or cannot be reached, or if the config is wrong.
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise DposcopeError(
            f"cannot load {spec} ({reason}); check owner, name, config (hub:owner/name/config) and connection"
        ) from error
    split = match["split"] or (next(iter(splits)) if len(splits) == 1 else None)
    if split not in splits:
        reason = f"has no split {split!r}" if split else "has several splits"
        base = spec.partition("@")[0]
        raise DposcopeError(f"{base} {reason}; choose one: {', '.join(f'{base}@{name}' for name in splits)}")
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
        raise DposcopeError(f"{spec}: no row has the {column} {value!r}; check the values of that column")
    return kept
