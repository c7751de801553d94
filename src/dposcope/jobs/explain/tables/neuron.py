"""The paper's tables of neurons: sizes and shares of groups, signs, correlations, how much changed.

Intervals in them are over prompts, see `prompt_intervals`; where there is none, a table stands without.
"""

from collections.abc import Mapping

import polars as pl

from dposcope.evaluation.numbers import between, fact, fixed
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.resampling import NO_INTERVALS, Intervals
from dposcope.neurons.shares import GroupShares
from dposcope.neurons.shifts import ChangeSummary, Correlation, Correlations
from dposcope.report.table import Table


def percent(share: float, digits: int = 1) -> str:
    """`52.3 %`."""
    return f"{fixed(100 * share, digits)} %"


OVER_PROMPTS = "In brackets: 95 % over prompts, parts of them drawn anew; noise pulls signs towards one half."


def share_in(intervals: Intervals, name: str, share: float, digits: int = 1) -> str:
    """`52.3 % (51.0–53.6)`."""
    return f"{percent(share, digits)}{in_brackets(intervals, name, digits, scale=100)}"


def in_brackets(intervals: Intervals, name: str, digits: int = 3, *, scale: float = 1) -> str:
    """` (51.0–53.6)`, or nothing."""
    if name not in intervals:
        return ""
    low, high = intervals[name]
    return f" ({between(scale * low, scale * high, digits)})"


def _with(row: Mapping[str, object], intervals: Intervals, **names: str) -> dict[str, object]:
    """A row and its intervals: `x_low`, `x_high` for column x, null where there is none."""
    ends = {
        f"{column}_{end}": intervals[name][at] if name in intervals else None
        for column, name in names.items()
        for at, end in enumerate(("low", "high"))
    }
    return {**row, **ends}


def _frame(rows: list[dict[str, object]]) -> pl.DataFrame:
    ends = [name for name in rows[0] if name.endswith(("_low", "_high"))]
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys([*ends, "r", "p"] if "r" in rows[0] else ends, pl.Float64))


def _notes(intervals: Intervals) -> tuple[str, ...]:
    return (OVER_PROMPTS,) if intervals else ()


def model_table(lm: LanguageModel) -> Table:
    """Table 8: sizes of the model's MLPs."""
    config = lm.model.config.get_text_config().to_dict()
    names = ("hidden_activation", "hidden_act", "activation_function")
    activation = next((str(config[name]) for name in names if config.get(name)), "unknown")
    facts = {
        "model": lm.name,
        "blocks": lm.n_blocks,
        "d": lm.d_model,
        "d_mlp": lm.d_mlp,
        "activation": activation,
        "gated": lm.gated,
        "neurons": lm.n_neurons,
    }
    return Table(
        "table-08-model",
        "MLPs of the model (paper, Table 8).",
        pl.DataFrame([facts]),
        ("model", "l", "d", "d_mlp", "σ", "gated", "neurons"),
        (
            (
                lm.name,
                str(lm.n_blocks),
                f"{lm.d_model:,}",
                f"{lm.d_mlp:,}",
                activation,
                "yes" if lm.gated else "no",
                f"{lm.n_neurons:,}",
            ),
        ),
    )


def groups_table(model: str, shares: GroupShares, intervals: Intervals = NO_INTERVALS) -> Table:
    """Table 5: the four groups among the neurons that reduce; with the ↑ groups and sums of Δ beside it."""
    rows = tuple(
        (
            str(share.group),
            f"{share.neurons:,}",
            percent(share.of_all),
            share_in(intervals, f"share_of_neurons {share.group}", share.of_moved),
            fact(share.contribution),
            share_in(intervals, f"share_of_contribution {share.group}", share.of_contribution),
            percent(share.certain),
        )
        for share in shares.groups
    )
    sums = (
        ("sum ↓", shares.reducing, share_in(intervals, "reducing", shares.share_reducing), shares.reduction),
        ("sum ↑", shares.increasing, share_in(intervals, "increasing", shares.share_increasing), shares.increase),
    )
    totals = tuple((name, f"{count:,}", of, "100 %", fact(delta), "100 %", "") for name, count, of, delta in sums)
    stored = [
        _with(
            row,
            intervals,
            of_moved=f"share_of_neurons {row['group']}",
            of_contribution=f"share_of_contribution {row['group']}",
        )
        for row in shares.to_polars().iter_rows(named=True)
    ]
    return Table(
        "table-05-groups",
        f"Neuron groups of {model} and what they carry (paper, Table 5 and Figure 2a).",
        _frame(stored),
        ("group", "neurons", "of all", "of ↓ or ↑", "Σ Δ", "of the Σ Δ of ↓ or ↑", "sign certain"),
        rows + totals,
        (
            "T or A: the value vector points with or against the direction; P or N: sign of the mean before; "
            "↓: Δ > 0. Σ Δ is in the stream's unit. Sign certain: |Δ| above 1.96 standard errors, tokens taken as "
            "independent.",
            *_notes(intervals),
        ),
    )


def negative_table(model: str, shares: GroupShares, intervals: Intervals = NO_INTERVALS) -> Table:
    """Table 13: neurons with negative mean activation before tuning."""
    negative = shares.negative_before
    return Table(
        "table-13-negative",
        f"Neurons of {model} with a negative mean activation before tuning (paper, Table 13).",
        _frame(
            [
                _with(
                    {"model": model, "negative": negative, "positive": 1 - negative, "neurons": shares.neurons},
                    intervals,
                    negative="negative",
                )
            ]
        ),
        ("model", "negative", "positive or 0", "neurons"),
        (
            (
                model,
                share_in(intervals, "negative", negative, 2),
                percent(1 - negative, 2),
                f"{shares.neurons:,}",
            ),
        ),
        _notes(intervals),
    )


def directions_table(model: str, shares: GroupShares, intervals: Intervals = NO_INTERVALS) -> Table:
    """Table 18: neurons that reduce the projection, and that increase it."""
    return Table(
        "table-18-reducing",
        f"Neurons of {model} by the sign of Δ (paper, Table 18; its caption has the sign reversed).",
        _frame(
            [
                _with(
                    {
                        "model": model,
                        "reducing": shares.share_reducing,
                        "increasing": shares.share_increasing,
                        "neurons": shares.neurons,
                    },
                    intervals,
                    reducing="reducing",
                    increasing="increasing",
                )
            ]
        ),
        ("model", "reduce (↓)", "increase (↑)", "neurons"),
        (
            (
                model,
                share_in(intervals, "reducing", shares.share_reducing, 2),
                share_in(intervals, "increasing", shares.share_increasing, 2),
                f"{shares.neurons:,}",
            ),
        ),
        _notes(intervals),
    )


def correlations_table(model: str, found: Correlations, intervals: Intervals = NO_INTERVALS) -> Table:
    """Table 17: what activation shifts go with."""
    rows = (
        ("activation shift and cosine with the direction", found.cosine, "r_cosine"),
        ("activation shift and mean activation before", found.activation, "r_activation"),
    )
    stored = [
        _with(row, intervals, r=name)
        for row, (_, _, name) in zip(found.to_polars().iter_rows(named=True), rows, strict=True)
    ]
    return Table(
        "table-17-correlations",
        f"Pearson correlation of the activation shift, before − after, over neurons of {model} (paper, Table 17).",
        _frame(stored),
        ("variables", "r", "p", "neurons"),
        tuple(
            (title, f"{_r(one)}{in_brackets(intervals, name)}", _p(one), f"{one.neurons:,}")
            for title, one, name in rows
        ),
        ("p takes neurons as independent, which they are not.", *_notes(intervals)),
    )


def change_table(model: str, change: ChangeSummary, intervals: Intervals = NO_INTERVALS) -> Table:
    """How much value vectors and activations changed (paper, text of 5.1)."""
    rows = (
        ("cosine of a value vector with itself after tuning, mean", fixed(change.vector_cosine, 5)),
        ("the same, smallest", fixed(change.vector_cosine_min, 5)),
        (
            "mean |activation shift| over mean |activation|",
            f"{fixed(change.shift_percent, 2)} %{in_brackets(intervals, 'shift_percent', 2)}",
        ),
        ("median over neurons of |shift| / |activation|", f"{fixed(change.median_shift_percent, 2)} %"),
    )
    return Table(
        "change",
        f"How much tuning changed {model} (paper, section 5.1).",
        _frame(
            [_with(row, intervals, shift_percent="shift_percent") for row in change.to_polars().iter_rows(named=True)]
        ),
        ("", "value"),
        rows,
        _notes(intervals),
    )


def _r(found: Correlation) -> str:
    return "–" if found.r is None else fixed(found.r)


def _p(found: Correlation) -> str:
    if found.p is None:
        return "–"
    return "< 0.0001" if found.p < 1e-4 else fixed(found.p, 4)
