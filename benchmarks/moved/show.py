"""Tables and the figure of what moved."""

from typing import Any

import polars as pl
from matplotlib.figure import Figure

from dposcope.evaluation.numbers import fixed
from dposcope.evaluation.statistics import Estimate
from dposcope.report.figures import COLOURS, MARKERS, MUTED, house_style
from dposcope.report.table import Table
from moved.parts import Scored
from moved.rule import ALL

ALONE, WRITES = "the edit, its gains alone", "the edit, as it writes"
CONTROL, TUNED = "its control, as it writes", "the tuned model"
ALIKE = {"edit": "edit as it writes", "gains": "its gains alone", "control": "its control"}


def _percent(mean: float, low: float, high: float) -> str:
    return f"{fixed(100 * mean, 1)} % ({fixed(100 * low, 1)}–{fixed(100 * high, 1)})"


def rule_table(frame: pl.DataFrame, model: str) -> Table:
    """Who moved as the rule says."""
    rows = [
        (
            str(row["change"]),
            "last" if row["block"] == -1 else str(row["block"]),
            str(row["group"]),
            f"{row['neurons']:,}",
            _percent(row["share"], row["share_low"], row["share_high"]),
            _percent(row["weighted"], row["weighted_low"], row["weighted_high"]),
        )
        for row in frame.iter_rows(named=True)
    ]
    return Table(
        "rule",
        f"Neurons of {model} that lost projection on the direction, as the paper's rule would have them",
        frame.with_columns(pl.lit(model).alias("model"), pl.lit("strict").alias("protocol")),
        ("change", "direction at block", "group", "neurons moved", "as the rule says", "weighted by size"),
        tuple(rows),
        ("Intervals: 95 %, blocks resampled. Chance is 50 %.",),
    )


def alike_table(rows: list[dict[str, Any]], model: str) -> Table:
    """How alike the edit and the tuned model are."""
    names = ("edit", "gains", "control", "halves")
    numbers = [
        {"group": row["group"]}
        | {
            f"{name}{end}": getattr(row[name], part)
            for name in names
            for end, part in (("", "mean"), ("_low", "low"), ("_high", "high"))
        }
        for row in rows
    ]
    cells = tuple(
        (
            str(row["group"]),
            f"{row['edit'].n:,}",
            *(_correlation(row[name]) for name in names),
        )
        for row in rows
    )
    return Table(
        "alike",
        f"Rank correlation of neurons' reductions: an edit of {model} and the tuned model",
        pl.DataFrame(numbers).with_columns(pl.lit(model).alias("model"), pl.lit("strict").alias("protocol")),
        ("group", "neurons", *(f"{one}, tuned" for one in ALIKE.values()), "tuned, two halves of the prompts"),
        cells,
        (
            "Spearman's ρ; intervals: 95 %, blocks resampled. In the last column the two changes are one model's, on "
            "other prompts, half as many each; in all others the prompts are the same.",
        ),
    )


def _correlation(value: Estimate) -> str:
    return f"{value.mean:+.3f} ({value.low:+.3f} to {value.high:+.3f})".replace("-", "−")


def parts_table(scored: list[Scored], model: str, prompts: int) -> Table:
    """Parts of an edit."""
    rows = tuple(
        (
            one.name,
            f"{one.neurons:,}",
            str(one.ratio) if one.neurons else "–",
            str(one.share) if one.neurons else "–",
            fixed(one.kl, 3),
            fixed(one.repetition, 3),
        )
        for one in scored
    )
    frame = pl.DataFrame(
        [
            {
                "part": one.name,
                "neurons": one.neurons,
                **{
                    f"ratio{end}": getattr(one.ratio, name)
                    for end, name in (("", "ratio"), ("_low", "low"), ("_high", "high"))
                },
                **{
                    f"share{end}": getattr(one.share, name)
                    for end, name in (("", "share"), ("_low", "low"), ("_high", "high"))
                },
                "kl": one.kl,
                "repetition": one.repetition,
            }
            for one in scored
        ]
    )
    return Table(
        "parts",
        f"Parts of the edit of {model} applied alone",
        frame.with_columns(pl.lit(model).alias("model"), pl.lit("strict").alias("protocol")),
        ("part", "neurons", "concept, share of none", "share of the whole edit's effect", "KL, nats", "repetition"),
        rows,
        (f"{prompts} prompts; intervals: 95 %, prompts resampled.",),
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
