"""The paper's tables of neurons: sizes and shares of groups, signs, correlations, amounts of change.

Their intervals are over prompts, see `prompt_intervals`. With too few prompts, the tables have no intervals.
"""

from collections.abc import Mapping

import polars as pl

from dposcope.evaluation.numbers import COUNT, FACT, MEAN, P_VALUE, SHARE, Format
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.resampling import NO_INTERVALS, Intervals
from dposcope.neurons.shares import GroupShares
from dposcope.neurons.shifts import ChangeSummary, Correlations
from dposcope.report.table import Column, Table, frame_of

OVER_PROMPTS = (
    "In brackets: 95 % interval, by resampling parts of the prompts. Noise moves shares of signs towards 50 %."
)

FINE_SHARE, POINTS, COSINE = Format("percent", 2), Format("points", 2), Format("fixed", 5)


def with_interval(intervals: Intervals, name: str, value: float, format: Format) -> str:
    """`52.3 % (51.0–53.6)`, or the value alone where there is no interval of that name."""
    return format.with_interval(value, *intervals[name]) if name in intervals else format.value(value)


def _ends(intervals: Intervals, **names: str) -> dict[str, float | None]:
    """`x_low`, `x_high` for each column x; null without an interval."""
    return {
        f"{column}_{end}": intervals[name][at] if name in intervals else None
        for column, name in names.items()
        for at, end in enumerate(("low", "high"))
    }


def _notes(intervals: Intervals) -> tuple[str, ...]:
    return (OVER_PROMPTS,) if intervals else ()


def model_table(lm: LanguageModel) -> Table:
    """Table 8: sizes of the model's MLPs."""
    config = lm.model.config.get_text_config().to_dict()
    names = ("hidden_activation", "hidden_act", "activation_function")
    facts = {
        "model": lm.name,
        "blocks": lm.n_blocks,
        "d": lm.d_model,
        "d_mlp": lm.d_mlp,
        "activation": next((str(config[name]) for name in names if config.get(name)), "unknown"),
        "gated": lm.gated,
        "neurons": lm.n_neurons,
    }
    frame = pl.DataFrame([facts])
    return Table(
        "table-08-model",
        "MLPs of the model (paper, Table 8).",
        frame,
        (
            Column("model", "model"),
            Column("blocks", "l", COUNT),
            Column("d", "d", COUNT),
            Column("d_mlp", "d_mlp", COUNT),
            Column("activation", "σ"),
            Column("gated", "gated", FACT),
            Column("neurons", "neurons", COUNT),
        ),
        view=frame.with_columns(pl.col("activation").str.replace_all("_", " ")),
        notes=lm.columns.told(),
        number=8,
    )


def groups_table(model: str, shares: GroupShares, intervals: Intervals = NO_INTERVALS) -> Table:
    """Table 5: the four groups of ↓ neurons; and, not in the paper's, the ↑ groups and sums of Δ."""
    groups = shares.to_polars().iter_rows(named=True)
    frame = frame_of(
        [
            {
                **row,
                **_ends(
                    intervals,
                    of_moved=f"share_of_neurons {row['group']}",
                    of_contribution=f"share_of_contribution {row['group']}",
                ),
            }
            for row in groups
        ]
    )
    sums = [
        {"group": name, "neurons": neurons, "of_all": share, "contribution": total, **_ends(intervals, of_all=over)}
        for name, neurons, share, total, over in (
            ("sum ↓", shares.reducing, shares.share_reducing, shares.reduction, "reducing"),
            ("sum ↑", shares.increasing, shares.share_increasing, shares.increase, "increasing"),
        )
    ]
    # Of no neuron there is no share.
    all_of_them = pl.when(pl.col("neurons") > 0).then(1.0)
    whole = frame_of(sums).with_columns(of_moved=all_of_them, of_contribution=all_of_them)
    return Table(
        "table-05-groups",
        f"Neuron groups of {model} and what they carry (paper, Table 5 and Figure 2a).",
        frame,
        (
            Column("group", "group"),
            Column("neurons", "neurons", COUNT),
            Column.ranged("of_all", "of all", SHARE),
            Column.ranged("of_moved", "of ↓ or ↑", SHARE),
            Column("contribution", "Σ Δ", FACT),
            Column.ranged("of_contribution", "of the Σ Δ of ↓ or ↑", SHARE),
            Column("certain", "sign certain", SHARE),
        ),
        (
            "T or A: the value vector points with or against the direction; P or N: sign of the mean before; "
            "↓: Δ > 0. Σ Δ is in the stream's unit. Sign certain: |Δ| above 1.96 standard errors, tokens taken as "
            "independent.",
            *_notes(intervals),
        ),
        view=pl.concat([frame, whole], how="diagonal_relaxed"),
        number=5,
    )


def negative_table(model: str, shares: GroupShares, intervals: Intervals = NO_INTERVALS) -> Table:
    """Table 13: neurons with negative mean activation before tuning."""
    negative = shares.negative_before
    row = {"model": model, "negative": negative, "positive": 1 - negative, "neurons": shares.neurons}
    return _shares_table(
        "table-13-negative",
        f"Neurons of {model} with a negative mean activation before tuning (paper, Table 13).",
        {**row, **_ends(intervals, negative="negative")},
        (Column.ranged("negative", "negative", FINE_SHARE), Column("positive", "positive or 0", FINE_SHARE)),
        intervals,
        number=13,
    )


def directions_table(model: str, shares: GroupShares, intervals: Intervals = NO_INTERVALS) -> Table:
    """Table 18: neurons that reduce the projection, and that increase it."""
    reducing, increasing = shares.share_reducing, shares.share_increasing
    row = {"model": model, "reducing": reducing, "increasing": increasing, "neurons": shares.neurons}
    return _shares_table(
        "table-18-reducing",
        f"Neurons of {model} by the sign of Δ (paper, Table 18; its caption has the sign reversed).",
        {**row, **_ends(intervals, reducing="reducing", increasing="increasing")},
        (
            Column.ranged("reducing", "reduce (↓)", FINE_SHARE),
            Column.ranged("increasing", "increase (↑)", FINE_SHARE),
        ),
        intervals,
        number=18,
    )


def _shares_table(
    name: str, title: str, row: Mapping[str, object], shown: tuple[Column, ...], intervals: Intervals, *, number: int
) -> Table:
    columns = (Column("model", "model"), *shown, Column("neurons", "neurons", COUNT))
    return Table(name, title, frame_of([row]), columns, _notes(intervals), number=number)


def correlations_table(model: str, correlations: Correlations, intervals: Intervals = NO_INTERVALS) -> Table:
    """Table 17: correlations of activation shifts."""
    titles = {
        "cosine": "activation shift and cosine with the direction",
        "activation": "activation shift and mean activation before",
    }
    rows = correlations.to_polars().iter_rows(named=True)
    frame = frame_of([{**row, **_ends(intervals, r=f"r_{row['with']}")} for row in rows])
    return Table(
        "table-17-correlations",
        f"Pearson correlation of the activation shift, before − after, over neurons of {model} (paper, Table 17).",
        frame,
        (
            Column("variables", "variables"),
            Column.ranged("r", "r", MEAN),
            Column("p", "p", P_VALUE),
            Column("neurons", "neurons", COUNT),
        ),
        ("p assumes that neurons are independent, which they are not.", *_notes(intervals)),
        view=frame.with_columns(variables=pl.col("with").replace(titles)),
        number=17,
    )


def change_table(model: str, change: ChangeSummary, intervals: Intervals = NO_INTERVALS) -> Table:
    """How much value vectors and activations changed (paper, text of 5.1)."""
    shift, over = change.shift_percent, _ends(intervals, shift_percent="shift_percent")
    lines = [
        ("cosine of a value vector with itself after tuning, mean", change.vector_cosine, COSINE),
        ("the same, smallest", change.vector_cosine_min, COSINE),
        ("mean |activation shift| over mean |activation|", shift, POINTS),
        ("median over neurons of |shift| / |activation|", change.median_shift_percent, POINTS),
    ]
    none = _ends(NO_INTERVALS, value="")
    ends = [none, none, _ends(intervals, value="shift_percent"), none]
    return Table(
        "change",
        f"How much tuning changed {model} (paper, section 5.1).",
        frame_of([{**row, **over} for row in change.to_polars().iter_rows(named=True)]),
        (
            Column("what", "measure"),
            Column("value", "value", interval=("value_low", "value_high"), formats="format"),
        ),
        _notes(intervals),
        view=frame_of(
            [
                {"what": what, "value": value, **low_high, "format": str(form)}
                for (what, value, form), low_high in zip(lines, ends, strict=True)
            ]
        ),
    )
