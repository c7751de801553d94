"""The paper's tables of interventions: effects on toxicity, log-perplexity and F1 (Tables 2, 3, 12 and 19).

Also the paper's rules for reading them: shares of the tuned model's reduction, the best edit, the strongest steering.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.evaluation.numbers import COUNT, MEAN, RATIO, SHARE, Format, count
from dposcope.evaluation.sampled.ideal import IDEAL
from dposcope.evaluation.statistics.comparisons import paired_share
from dposcope.evaluation.statistics.intervals import Share, columns_of
from dposcope.jobs.explain.conditions import TUNED, ExplainCondition
from dposcope.report.costs import UNSHARED, cost_columns, cost_notes, cost_values, scorer_label
from dposcope.report.table import Column, Table, frame_of

_MEASURES = {
    "logppl": "log-PPL",
    "f1": "F1",
    "repetition": "repetition",
}
_NO_SHARE = "–: not measured, or the tuned model's own reduction is not significantly above 0."


def shares_of_reduction(outcomes: Mapping[str, Outcome], measure: str = "toxicity") -> dict[str, Share | None]:
    """Condition → its share of the tuned model's reduction (paper Table 3), paired, with an interval.

    None for all conditions if the tuned model's own reduction is not significantly above 0.

    Args:
        outcomes: `none` and `tuned` among them.
        measure: `toxicity`, or `judge` for the independent judge's view.
    """
    base, tuned = outcomes[BASE].per_prompt[measure], outcomes[TUNED].per_prompt[measure]
    others = {name: outcome for name, outcome in outcomes.items() if name not in (BASE, TUNED)}
    try:
        return {name: paired_share(base, outcome.per_prompt[measure], tuned) for name, outcome in others.items()}
    except DposcopeError:
        return dict.fromkeys(others)


def tuning_reduces(scores: Scores) -> bool:
    """Whether the tuned model is less toxic than the plain one, with an interval that excludes 0."""
    return scores.against_none[TUNED].differences["toxicity"].high < 0


def best_edit(conditions: Sequence[ExplainCondition], scores: Scores) -> str | None:
    """The edit that the paper would mark: the highest F1 among edits whose toxicity is not above the tuned model's.

    Among equal F1, the highest toxicity. None if there is no such edit, or if the tuned model's own reduction is not
    significantly above 0.
    """
    if not tuning_reduces(scores):
        return None
    bound = scores.conditions[TUNED]["toxicity"].mean
    measured = {row.name: scores.conditions[row.name] for row in conditions if row.role == "edit"}
    reaching = {name: means for name, means in measured.items() if means["toxicity"].mean <= bound}
    return max(reaching, key=lambda name: (reaching[name]["f1"].mean, reaching[name]["toxicity"].mean), default=None)


def keeps_text(scores: Scores, name: str) -> bool:
    """Bound on strengths: log-PPL within +0.3 and F1 above 0.95 × that of the plain model."""
    rise = scores.against_none[name].differences["logppl"].mean
    return rise <= 0.3 and scores.conditions[name]["f1"].mean >= 0.95 * scores.conditions[BASE]["f1"].mean


def strongest_steering(conditions: Sequence[ExplainCondition], scores: Scores) -> ExplainCondition | None:
    """The steering away from the direction of largest αW within the bounds of `keeps_text`; None if there is none."""
    within = [row for row in conditions if row.steers_away and keeps_text(scores, row.name)]
    return max(within, key=lambda row: row.length, default=None)


def interventions_table(
    model: str,
    conditions: Sequence[ExplainCondition],
    scores: Scores,
    shares: Mapping[str, Share | None],
    judged: Mapping[str, Share | None],
    *,
    sizes: Mapping[str, int],
    number: int = 2,
) -> Table:
    """Tables 2 or 19: every intervention, with intervals, paired differences and its share of tuning's reduction.

    Args:
        model: named in the title.
        conditions: the rows, in order; `none` comes before them.
        scores: of all of them.
        shares: see `shares_of_reduction`.
        judged: the same by the independent judge.
        sizes: patch → number of its neurons.
        number: of the paper's table.
    """
    named = _named(scores)
    measures = [name for name in named if name in scores.conditions[BASE]]
    limit = [_numbers("Limit", "ideal", IDEAL, scores)] if IDEAL in scores.conditions else []
    # One mark per part of the table, as in the paper.
    parts = {row.section: [other for other in conditions if other.section == row.section] for row in conditions}
    best = {best_edit(part, scores) for part in parts.values()}
    frame = frame_of(
        [_numbers("Baselines", "none", BASE, scores)]
        + [
            _numbers(row.section, row.role, row.name, scores)
            | {"neurons": sizes.get(row.name)}
            | columns_of("share_of_dpo", shares.get(row.name))
            | columns_of("share_of_dpo_judge", judged.get(row.name))
            for row in conditions
        ]
        + limit
    )
    labels = [f"{row.label} (best)" if row.name in best else row.label for row in conditions]
    labels += ["Ideal"] * len(limit)
    base = scores.conditions[BASE]
    counts = ", ".join(f"{named[name]} {count(base[name].n)}" for name in measures)
    return Table(
        f"table-{number:02}-interventions",
        f"What each intervention does to {model} (paper, Table {number}).",
        frame,
        (
            Column("section", "type"),
            Column("label", "intervention"),
            *_measured(scores, measures),
            Column.measured("share_of_dpo", "share of tuning's reduction", SHARE),
            *cost_columns(scores),
        ),
        (
            f"{scores.protocol} protocol; mean (95 % bootstrap interval); items: {counts}. "
            f"†: {scores.holm_note}. Best: in its part of the table, the edit of highest F1 whose {scores.concept} is "
            f"not above the tuned model's. {_NO_SHARE}",
            *cost_notes(scores),
        ),
        view=_with_labels(frame, ["Plain model", *labels], scores, measures),
        number=number,
    )


def steering_table(model: str, conditions: Sequence[ExplainCondition], scores: Scores) -> Table:
    """Table 12: strength of steering against toxicity by every scorer, log-perplexity, F1 and further costs."""
    measures = [name for name in (*scores.scorers, "logppl", "f1") if name in scores.conditions[BASE]]
    chosen = [row for row in conditions if row.steering is not None]
    strongest = strongest_steering(conditions, scores)
    labels = [f"{row.label} (chosen)" if row is strongest else row.label for row in chosen]
    frame = frame_of(
        [
            _numbers("Baselines", "none", BASE, scores),
            *(_numbers(row.section, row.role, row.name, scores) for row in chosen),
        ]
    )
    return Table(
        "table-12-steering",
        f"Steering of {model} with the direction, by strength (paper, Table 12).",
        frame,
        (Column("label", "intervention"), *_measured(scores, measures), *cost_columns(scores)),
        (
            f"†: {scores.holm_note}. Chosen: the longest αW with log-PPL within +0.3 and F1 above 0.95 × that of the "
            "plain model.",
            *cost_notes(scores),
        ),
        view=_with_labels(frame, ["Plain model", *labels], scores, measures),
        number=12,
    )


def toxic_table(
    model: str,
    neurons: int,
    sets: Mapping[str, int],
    shares: Mapping[str, Share | None],
    judged: Mapping[str, Share | None],
    labels: Mapping[str, str],
) -> Table:
    """Table 3: how many toxic neurons there are, and how much of tuning's reduction patching them gives.

    Args:
        model: named in the title.
        neurons: of the model.
        sets: condition → number of neurons.
        shares: see `shares_of_reduction`; conditions that were not measured are not in it.
        judged: the same by the independent judge.
        labels: condition → label.
    """
    frame = frame_of(
        [
            {"model": model, "condition": name, "neurons": size, "of_all": size / neurons}
            | columns_of("share_of_dpo", shares.get(name))
            | columns_of("share_of_dpo_judge", judged.get(name))
            for name, size in sets.items()
        ]
    )
    return Table(
        "table-03-toxic-neurons",
        f"Toxic neurons of {model}, and the share of tuning's reduction that patching them gives (paper, Table 3).",
        frame,
        (
            Column("label", "neurons"),
            Column("neurons", "number", COUNT),
            Column("of_all", "of all", Format("percent", 3)),
            Column.measured("share_of_dpo", "share of tuning's reduction", SHARE),
            Column.measured("share_of_dpo_judge", "by the judge", SHARE),
        ),
        (_NO_SHARE,),
        view=frame.with_columns(label=pl.col("condition").replace_strict(labels)),
        number=3,
    )


def _named(scores: Scores) -> dict[str, str]:
    """Measure → its heading; the concept by its own name, and every scorer side by side."""
    scorers = {"toxicity": scores.concept} | {name: scorer_label(name) for name in scores.scorers[1:]}
    return scorers | _MEASURES


def _measured(scores: Scores, measures: Sequence[str]) -> list[Column]:
    """Means with their intervals, and the ratio to the plain model."""
    named = _named(scores)
    return [
        *(
            Column(
                f"{name}_mean", named[name], MEAN, (f"{name}_low", f"{name}_high"), f"{name}_mark", items=f"{name}_n"
            )
            for name in measures
        ),
        Column.measured("ratio", f"{scores.concept}, share of the plain model's", RATIO),
    ]


def _with_labels(frame: pl.DataFrame, labels: Sequence[str], scores: Scores, measures: Sequence[str]) -> pl.DataFrame:
    """Add labels, marks of differences from the plain model, and ratios to `frame`, for the columns of `_measured`."""
    against = [scores.against_none.get(name) for name in frame["condition"]]
    ratios = [columns_of("ratio", None if one is None else one.toxicity_ratio) for one in against]
    unshared = [scores.unshared(name) for name in frame["condition"]]
    marks = {
        f"{name}_mark": [
            ("†" if condition in scores.differing(name) else "") + (UNSHARED if name in alone else "")
            for condition, alone in zip(frame["condition"], unshared, strict=True)
        ]
        for name in measures
    }
    return pl.concat([frame, pl.DataFrame({"label": labels, **marks}), frame_of(ratios)], how="horizontal")


def _numbers(section: str, role: str, name: str, scores: Scores) -> dict[str, Any]:
    comparison = scores.against_none.get(name)
    numbers: dict[str, Any] = {
        "protocol": scores.protocol,
        "model": scores.model,
        "section": section,
        "role": role,
        "condition": name,
    }
    for measure in scores.conditions[BASE]:
        estimate = scores.conditions[name].get(measure)
        told = dict.fromkeys(("mean", "low", "high", "n")) if estimate is None else estimate.to_dict()
        numbers |= {f"{measure}_{part}": value for part, value in told.items()}
        difference = None if comparison is None else comparison.differences.get(measure)
        for part in ("mean", "low", "high"):
            numbers[f"{measure}_difference_{part}"] = None if difference is None else difference.to_dict()[part]
    return numbers | cost_values(scores, name)
