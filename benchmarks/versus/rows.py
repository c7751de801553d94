"""One line of the table, what it is about, and how it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from dposcope.evaluation.numbers import COUNT, DIFFERENCE, MEAN, RATIO, Format
from dposcope.evaluation.statistics.intervals import Difference, Estimate, Ratio, value_of
from dposcope.report.table import Column, Table

Value = float | Estimate | Difference
"""A number, with its interval where there are items to resample."""


@dataclass(frozen=True)
class Statement:
    """A difference between text and code, in our words."""

    title: str
    text: str
    """What the paper's text says, and how it is read where it is silent."""
    code: str
    """What the published code does."""


STATEMENTS = {
    "a": Statement(
        "where the edit acts in perplexity",
        "the edited model's log-perplexity: the edit acts at every position",
        "the edit acts at position 0 of each window, which later ones feel through attention alone",
    ),
    "b": Statement(
        "assignment instead of scaling",
        "(1 ± α) times the activation; read as the live one",
        "neurons are set to (1 ± α) times their mean activation, whatever the text",
    ),
    "c": Statement(
        "which neurons of a group come first",
        "by descending cosine; read as |cos| in every group",
        "descending |cos| in TP and AN, ascending in AP and TN",
    ),
    "d": Statement(
        "the trim",
        "all neurons take part",
        "of GPT-2, neurons above the 80th percentile of all mean activations are left out: all of TP and AP",
    ),
    "e": Statement(
        "prompts of the toxicity score",
        "prompts as they are; the continuation alone is scored",
        "the first 32 tokens; the prompt is removed from the text by searching for it whole",
    ),
    "f": Statement(
        "what F1 compares",
        "generated tokens with the sentence's next 20; prompts keep the last of at most 64 tokens",
        "prompt and generation with 52 tokens of the sentence; prompts keep their first 32 tokens",
    ),
    "g": Statement(
        "windows of perplexity",
        "whole windows that begin with BOS; mean over predicted tokens",
        "BOS once, the last partial window kept, divided by all tokens",
    ),
    "h": Statement(
        "features and fit of the probe",
        "the last block's stream, mean over the comment's tokens; standardised, L2 by cross-validation",
        "after the final norm, padding to 128 and BOS in the mean; plain logistic regression",
    ),
    "i": Statement(
        "where mean activations are read",
        "at the positions that predict 20 generated tokens, while they are written",
        "a second pass reads the generated tokens: one position later, and beyond the end of the text",
    ),
    "j": Statement(
        "what the KL term averages",
        "completion tokens",
        "every position: prompt and padding too",
    ),
    "k": Statement(
        "hooks that stay",
        "each intervention is measured alone",
        "hooks are never removed, so what is measured next carries the edit",
    ),
    "l": Statement(
        "where steering subtracts",
        "from the residual stream after the last block",
        "from the last MLP's output, before Gemma's norm on it",
    ),
    "m": Statement(
        "embeddings of the token contrast",
        "token embeddings; read as the input matrix",
        "the unembedding for all but GPT-2; in Llama and Mistral it is another matrix",
    ),
    "n": Statement(
        "what ↓ means",
        "the projection on the direction falls (Equation 2)",
        "in figures the mean activation moves against the sign of the cosine; for patching as the text",
    ),
    "o": Statement(
        "sums of activations",
        "a mean; here in float64",
        "sums over 1,199 prompts in half precision",
    ),
}


@dataclass(frozen=True)
class Row:
    """One measure of one difference."""

    measure: str
    strict: Value
    reference: Value
    paired: Difference | Ratio | None = None
    """Reference − strict, or reference over strict, on the same items; None where there are none to pair."""


def make_table(found: dict[str, Sequence[Row]], *, model: str, notes: Sequence[str]) -> Table:
    """The table of everything found, in the order of `STATEMENTS`."""
    lines = [(key, row) for key in STATEMENTS for row in found.get(key, ())]
    frame = pl.DataFrame([_numbers(key, row, model) for key, row in lines], schema=_SCHEMA, orient="row")
    formats = {
        f"{name}_format": [str(_format(value)) for _, row in lines for value in (getattr(row, name),)]
        for name in _COLUMNS
    }
    # Said once, above the measures that belong to it.
    again = pl.col("difference").eq_missing(pl.col("difference").shift())
    told = ("difference", "title", "text", "code")
    return Table(
        "protocols",
        f"The paper's text against its published code, one change at a time from the strict protocol, on {model}.",
        frame,
        (
            *(Column(name, label) for name, label in zip(told, ("", "difference", "text", "code"), strict=True)),
            Column("measure", "measure"),
            *(
                Column(name, name, interval=(f"{name}_low", f"{name}_high"), formats=f"{name}_format")
                for name in _COLUMNS
            ),
        ),
        tuple(notes),
        view=frame.with_columns(
            *(pl.when(again).then(pl.lit("")).otherwise(name).alias(name) for name in told),
            *(pl.Series(name, values, dtype=pl.String) for name, values in formats.items()),
        ),
    )


def _format(value: Value | Ratio | None) -> Format:
    match value:
        case int():
            return COUNT
        case Difference():
            return DIFFERENCE
        case Ratio():
            return RATIO
        case _:
            return MEAN


_COLUMNS = ("strict", "reference", "paired")
_SCHEMA = {
    **dict.fromkeys(("model", "difference", "title", "text", "code", "measure"), pl.String),
    **{f"{name}{end}": pl.Float64 for name in _COLUMNS for end in ("", "_low", "_high")},
    "paired_as": pl.String,
    "n": pl.Int64,
}


def _numbers(key: str, row: Row, model: str) -> list[object]:
    said = STATEMENTS[key]
    values = [number for value in (row.strict, row.reference, row.paired) for number in _parts(value)]
    counted = next((value.n for value in (row.paired, row.strict) if not isinstance(value, float | int | None)), None)
    kind = None if row.paired is None else "ratio" if isinstance(row.paired, Ratio) else "difference"
    return [model, key, said.title, said.text, said.code, row.measure, *values, kind, counted]


def _parts(value: Value | Ratio | None) -> list[float | None]:
    if value is None or isinstance(value, int | float):
        return [None if value is None else float(value), None, None]
    return [value_of(value), *value.ends]
