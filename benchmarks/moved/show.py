"""Tables and the figure of what moved."""

from typing import Any

import polars as pl
from matplotlib.figure import Figure

from dposcope.evaluation.numbers import COUNT, DIFFERENCE, MEAN, RATIO, SHARE
from dposcope.evaluation.statistics.intervals import Estimate, columns_of
from dposcope.report.figures import COLOURS, MARKERS, MUTED, house_style
from dposcope.report.table import Column, Table
from moved.parts import Scored
from moved.rule import ALL

ALONE, WRITES = "the edit, its gains alone", "the edit, as it writes"
CONTROL, TUNED = "its control, as it writes", "the tuned model"
ALIKE = {"edit": "edit as it writes", "gains": "its gains alone", "control": "its control"}


def rule_table(frame: pl.DataFrame, model: str) -> Table:
    """Who moved as the rule says."""
    block = pl.when(pl.col("block") == -1).then(pl.lit("last")).otherwise(pl.col("block").cast(pl.String))
    return Table(
        "rule",
        f"Neurons of {model} that lost projection on the direction, as the paper's rule would have them",
        frame.with_columns(pl.lit(model).alias("model"), pl.lit("strict").alias("protocol")),
        (
            Column("change", "change"),
            Column("block", "direction at block"),
            Column("group", "group"),
            Column("neurons", "neurons moved", COUNT),
            Column.ranged("share", "as the rule says", SHARE),
            Column.ranged("weighted", "weighted by size", SHARE),
        ),
        ("Intervals: 95 %, blocks resampled. Chance is 50 %.",),
        view=frame.with_columns(block=block),
    )


def alike_table(rows: list[dict[str, Any]], model: str) -> Table:
    """How alike the edit and the tuned model are."""
    names = {**{name: f"{label}, tuned" for name, label in ALIKE.items()}, "halves": "tuned, two halves of the prompts"}
    frame = pl.DataFrame(
        [
            {"group": row["group"]}
            | {key: value for name in names for key, value in columns_of(name, row[name]).items()}
            for row in rows
        ]
    )
    return Table(
        "alike",
        f"Rank correlation of neurons' reductions: an edit of {model} and the tuned model",
        frame.with_columns(pl.lit(model).alias("model"), pl.lit("strict").alias("protocol")),
        (
            Column("group", "group"),
            Column("neurons", "neurons", COUNT),
            *(Column.ranged(name, label, DIFFERENCE) for name, label in names.items()),
        ),
        (
            "Spearman's ρ; intervals: 95 %, blocks resampled. In the last column the two changes are one model's, on "
            "other prompts, half as many each; in all others the prompts are the same.",
        ),
        view=frame.with_columns(neurons=pl.Series([row["edit"].n for row in rows])),
    )


def parts_table(scored: list[Scored], model: str, prompts: int) -> Table:
    """Parts of an edit."""
    frame = pl.DataFrame(
        [
            {"part": one.name, "neurons": one.neurons}
            | columns_of("ratio", one.ratio)
            | columns_of("share", one.share)
            | {"kl": one.kl, "repetition": one.repetition}
            for one in scored
        ]
    )
    measured = [f"{name}{end}" for name in ("ratio", "share") for end in ("", "_low", "_high")]
    return Table(
        "parts",
        f"Parts of the edit of {model} applied alone",
        frame.with_columns(pl.lit(model).alias("model"), pl.lit("strict").alias("protocol")),
        (
            Column("part", "part"),
            Column("neurons", "neurons", COUNT),
            Column.ranged("ratio", "concept, share of the plain model's", RATIO),
            Column.ranged("share", "share of the whole edit's effect", SHARE),
            Column("kl", "KL, nats", MEAN),
            Column("repetition", "repetition", MEAN),
        ),
        (f"{prompts} prompts; intervals: 95 %, prompts resampled.",),
        # A part without neurons is the plain model.
        view=frame.with_columns(pl.when(pl.col("neurons") > 0).then(name).alias(name) for name in measured),
    )


def figure(rule: pl.DataFrame, alike: list[dict[str, Any]], block: int) -> Figure:
    """Left: the rule. Right: likeness with the tuned model."""
    roles = {ALONE: "part", WRITES: "edit", CONTROL: "control", TUNED: "paper"}
    groups = [str(row["group"]) for row in alike]
    with house_style():
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for step, (change, role) in enumerate(roles.items()):
            own = rule.filter((pl.col("change") == change) & (pl.col("block") == block))
            for place, group in enumerate(groups):
                row = own.filter(pl.col("group") == group).row(0, named=True)
                value = Estimate(row["share"], row["share_low"], row["share_high"], row["neurons"])
                _dot(left, place + 0.18 * (step - 1.5), value, role, change if place == 0 else None)
        for step, (name, role, label) in enumerate(
            (
                ("gains", "part", "the edit's gains alone and the tuned model"),
                ("edit", "edit", "the edit as it writes and the tuned model"),
                ("control", "control", "its control and the tuned model"),
                ("halves", "paper", "the tuned model, two halves of the prompts"),
            )
        ):
            for place, row in enumerate(alike):
                _dot(right, place + 0.18 * (step - 1.5), row[name], role, label if place == 0 else None)
        for axes, chance, title in (
            (left, 0.5, "share of neurons that lost toxicity"),
            (right, 0.0, "rank correlation of reductions"),
        ):
            axes.axhline(chance, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.set_xticks(range(len(groups)), ["all" if name == ALL else name for name in groups])
            axes.set_ylabel(title)
            axes.grid(axis="y")
            axes.legend(frameon=False, fontsize=7.5, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        return figure


def _dot(axes: Any, x: float, value: Estimate, role: str, label: str | None) -> None:
    axes.plot([x, x], [value.low, value.high], color=COLOURS[role], linewidth=1.6)
    axes.plot([x], [value.mean], MARKERS[role], color=COLOURS[role], markersize=5, linestyle="none", label=label)
