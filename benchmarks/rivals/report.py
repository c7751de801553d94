"""What a comparison leaves: rows of evaluations, tables at equal cost, the settings behind them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from benchmarks.rivals.compare import SCORE, best_at, mean_up_to
from benchmarks.rivals.placing import COSTS
from benchmarks.rivals.sweep import Sweep, condition, values_of

from dposcope.evaluation.numbers import COUNT, DIFFERENCE, MEAN, RATIO, Format
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, paired_difference
from dposcope.evaluation.statistics.intervals import columns_of
from dposcope.report.table import Column, Table, frame_of

_SIDE_COST = 0.1
"""At which F1 and repetition are shown."""


@dataclass(frozen=True)
class Price:
    """Beside log-perplexity."""

    run_time: float | None
    """Ratio to the plain model; None: in the weights."""
    minutes: float | None
    gigabytes: float | None


def evaluations(sweeps: Sequence[Sweep], model: str, known: dict[str, dict[str, Any]]) -> pl.DataFrame:
    """One row per evaluation: means with intervals, and every prompt's score and window's rise.

    Args:
        sweeps: of all rivals so far.
        model: named in the rows.
        known: rows made before, by condition; new ones are added, as the table is written after each evaluation.
    """
    for found in sweeps:
        lines = {line.name: line for line in found.rival.lines}
        for one in found.measured:
            name = condition(found.rival, lines[one.line], one.strength)
            if name in known:
                continue
            row: dict[str, Any] = {
                "protocol": "strict",
                "model": model,
                "condition": name,
                "rival": found.rival.name,
                "line": one.line,
                "symbol": one.symbol,
                "strength": one.strength,
            }
            base, losses = found.base.losses, one.outcome.losses
            cost = paired_difference(losses.nll, base.nll, denominators=base.tokens)
            estimates = {name: bootstrap_mean(values) for name, values in values_of(one.outcome).items()}
            for measure, estimate in {"logppl_rise": cost, **estimates}.items():
                row |= {f"{measure}_{part}": value for part, value in estimate.to_dict().items()}
            row["scores"] = one.outcome.per_prompt[SCORE].tolist()
            row["window_rises"] = ((losses.nll - base.nll) / base.tokens).tolist()
            known[name] = row
    return pl.DataFrame(list(known.values()))


def at_costs(sweeps: Sequence[Sweep], ours: str | None, model: str) -> pl.DataFrame:
    """One row per rival, cost and measure: mean with interval, and the paired difference ours − rival.

    `cost` is the most that may be spent; 0 to 0.3 as text `area` is the mean over that range.
    """
    own = next((found for found in sweeps if found.rival.name == ours), None)
    rows: list[dict[str, Any]] = []
    for found in sweeps:
        measures = [name for name in (SCORE, "judge", "f1", "repetition") if name in values_of(found.base)]
        for cost in (*COSTS, None):
            for measure in measures:
                values = _values(found, cost, measure)
                against = None if own is None or own is found else _values(own, cost, measure)
                difference = None if against is None else paired_difference(against, values)
                mixture = None if cost is None else best_at(found.lines, cost)
                rows.append(
                    {
                        "protocol": "strict",
                        "model": model,
                        "condition": found.rival.name,
                        "cost": "area" if cost is None else f"{cost:g}",
                        "measure": measure,
                        **bootstrap_mean(values).to_dict(),
                        "spent": None if mixture is None else mixture.cost,
                        "setting": None if mixture is None else mixture.label,
                        "ours_minus": None if difference is None else difference.mean,
                        "ours_minus_low": None if difference is None else difference.low,
                        "ours_minus_high": None if difference is None else difference.high,
                    }
                )
    return pl.DataFrame(rows, infer_schema_length=None)


def _values(found: Sweep, cost: float | None, measure: str) -> np.ndarray:
    if cost is None:
        return mean_up_to(found.lines, max(COSTS), measure)
    return best_at(found.lines, cost).values(measure)


def main_table(
    frame: pl.DataFrame, sweeps: Sequence[Sweep], prices: Mapping[str, Price], ours: str | None, notes: Sequence[str]
) -> Table:
    """Every rival at every cost, with what else it costs."""
    base, plain = bootstrap_mean(sweeps[0].base.per_prompt[SCORE]), values_of(sweeps[0].base)
    costs = [f"{cost:g}" for cost in COSTS]
    side = ("f1", "repetition")
    lines = [
        {"method": "none", "run_time": "1.00"}
        | {key: value for cost in costs for key, value in columns_of(cost, base).items()}
        | {"area": base.mean}
        | {name: float(np.mean(plain[name])) for name in side}
    ]
    for found in sweeps:
        name = found.rival.name
        price = prices[name]
        line: dict[str, Any] = {"method": name}
        for cost in (*costs, "area"):
            row = _row(frame, name, cost, SCORE)
            lower = row["ours_minus_high"] is not None and row["ours_minus_high"] < 0
            line |= {cost: row["mean"], f"{cost}_low": row["low"], f"{cost}_high": row["high"]}
            line[f"{cost}_mark"] = "*" if lower else ""
        line |= {part: _row(frame, name, f"{_SIDE_COST:g}", part)["mean"] for part in side}
        line |= {
            "run_time": "none added" if price.run_time is None else RATIO.value(price.run_time),
            "minutes": price.minutes,
            "gigabytes": price.gigabytes,
            "evaluations": len(found.measured),
        }
        lines.append(line)
    names = {**{cost: f"at +{cost}" for cost in costs}, "area": f"mean, 0 to +{max(COSTS):g}"}
    columns = (
        Column("method", "method"),
        *(Column.ranged(name, label, MEAN, mark=f"{name}_mark") for name, label in names.items()),
        Column("f1", f"F1 at +{_SIDE_COST:g}", MEAN),
        Column("repetition", f"repetition at +{_SIDE_COST:g}", MEAN),
        Column("run_time", "run time"),
        Column("minutes", "minutes", Format("fixed", 1)),
        Column("gigabytes", "GB", Format("fixed", 1)),
        Column("evaluations", "evaluations", COUNT),
    )
    starred = () if ours is None else (f"*: {ours} is lower, paired on the same prompts, its interval excludes 0.",)
    title = "Concept score that each method reaches within a rise of log-perplexity, at its best"
    return Table("rivals-at-costs", title, frame, columns, (*starred, *notes), view=_view(lines))


def paired_tables(frame: pl.DataFrame, ours: str, concept: str) -> list[Table]:
    """Ours minus each rival, by the scorer and by the judge."""
    tables: list[Table] = []
    for measure, said in ((SCORE, "by the scorer"), ("judge", "by the independent judge")):
        part = frame.filter((pl.col("measure") == measure) & (pl.col("condition") != ours))
        names = part["condition"].unique(maintain_order=True).to_list()
        costs = [*(f"{cost:g}" for cost in COSTS), "area"]
        lines = [
            {"method": name}
            | {
                f"{cost}{end}": _row(part, name, cost, measure)[f"ours_minus{end}"]
                for cost in costs
                for end in ("", "_low", "_high")
            }
            for name in names
        ]
        labels = [*(f"at +{cost}" for cost in costs[:-1]), f"mean, 0 to +{max(COSTS):g}"]
        columns = (
            Column("method", f"{ours} minus"),
            *(Column.ranged(cost, label, DIFFERENCE) for cost, label in zip(costs, labels, strict=True)),
        )
        ahead = [
            name for name in names if all(_row(part, name, cost, measure)["ours_minus_high"] < 0 for cost in costs)
        ]
        behind = [name for name in names if name not in ahead]
        note = f"{ours} is lower at every cost, each interval excluding 0, than: {' · '.join(ahead) or 'none'}; "
        note += f"not so: {' · '.join(behind) or 'none'}."
        if lines:
            title = f"Paired difference of {concept}, {said}: below 0, {ours} is lower"
            tables.append(Table(f"rivals-paired-{measure}", title, part, columns, (note,), view=_view(lines)))
    return tables


def _view(lines: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    return frame_of([{name: line.get(name) for one in reversed(lines) for name in one} for line in lines])


def _row(frame: pl.DataFrame, name: str, cost: str, measure: str) -> dict[str, Any]:
    found = frame.filter((pl.col("condition") == name) & (pl.col("cost") == cost) & (pl.col("measure") == measure))
    return found.row(0, named=True)
