"""The paper's tables of interventions: what each does to toxicity, log-perplexity and F1 (Tables 2, 3, 12 and 19).

Beside the rows stand the rules by which the paper reads them: shares of the tuned model's reduction, the best edit,
the steering to compare with.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from dposcope.errors import DposcopeError
from dposcope.evaluation.statistics import Share, paired_share
from dposcope.evaluation.suite import BASE, CONCEPT, Outcome, Scores
from dposcope.jobs.explain.conditions import TUNED, ExplainCondition
from dposcope.jobs.explain.tables.neuron import percent
from dposcope.report.table import Table

_MEASURES = {
    "toxicity": CONCEPT,
    "judge": "by the judge",
    "logppl": "log-PPL",
    "f1": "F1",
    "repetition": "repetition",
}
_NO_SHARE = "–: not measured, or the tuned model's own reduction cannot be told from 0."


def shares_of_reduction(outcomes: Mapping[str, Outcome], measure: str = "toxicity") -> dict[str, Share | None]:
    """Condition → share of the tuned model's reduction that it makes (paper Table 3), paired, with an interval.

    None for all where the tuned model's own reduction cannot be told from 0.

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
    """Whether the tuned model is certainly less toxic than the plain one: else there is nothing to share or reach."""
    return scores.against_none[TUNED].differences["toxicity"].high < 0


def best_edit(conditions: Sequence[ExplainCondition], scores: Scores) -> str | None:
    """The edit that the paper would mark: of those whose toxicity is not above the tuned model's, the one
    with the highest F1.

    Of equals, the one nearest to its toxicity. None where no edit reaches it, or where its own reduction cannot be
    told from 0.
    """
    if not tuning_reduces(scores):
        return None
    bound = scores.conditions[TUNED]["toxicity"].mean
    measured = {row.name: scores.conditions[row.name] for row in conditions if row.role == "edit"}
    reaching = {name: found for name, found in measured.items() if found["toxicity"].mean <= bound}
    return max(reaching, key=lambda name: (reaching[name]["f1"].mean, reaching[name]["toxicity"].mean), default=None)


def keeps_text(scores: Scores, name: str) -> bool:
    """SPEC section 4's bound on strengths: log-PPL within +0.3 and F1 above 0.95 × that of the plain model."""
    rise = scores.against_none[name].differences["logppl"].mean
    return rise <= 0.3 and scores.conditions[name]["f1"].mean >= 0.95 * scores.conditions[BASE]["f1"].mean


def strongest_steering(conditions: Sequence[ExplainCondition], scores: Scores) -> ExplainCondition | None:
    """The longest steering that keeps the text; None where none does or none was measured."""
    kept = [row for row in conditions if row.role == "steer" and keeps_text(scores, row.name)]
    return max(kept, key=lambda row: row.length, default=None)


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
    # One mark per part of the table, as in the paper.
    parts = {row.section: [other for other in conditions if other.section == row.section] for row in conditions}
    best = {best_edit(part, scores) for part in parts.values()}
    rows: list[tuple[str, ...]] = [_row("Baselines", "None", BASE, scores, measures, None)]
    frame = [_numbers("Baselines", "none", BASE, scores)]
    for row in conditions:
        share = shares.get(row.name)
        label = f"{row.label} (best)" if row.name in best else row.label
        rows.append(_row(row.section, label, row.name, scores, measures, share))
        numbers = _numbers(row.section, row.role, row.name, scores)
        frame.append(
            numbers
            | {"neurons": sizes.get(row.name)}
            | _share_columns("share_of_dpo", share)
            | _share_columns("share_of_dpo_judge", judged.get(row.name))
        )
    n = scores.conditions[BASE]
    counts = ", ".join(f"{named[name]} {n[name].n:,}" for name in measures)
    return Table(
        f"table-{number:02}-interventions",
        f"What each intervention does to {model} (paper, Table {number}).",
        _frame(frame),
        (
            "type",
            "intervention",
            *(named[name] for name in measures),
            f"{scores.concept}, × none",
            "share of tuning's reduction",
        ),
        tuple(rows),
        (
            f"{scores.protocol} protocol; mean (95 % bootstrap interval); items: {counts}. "
            "†: differs from None, paired, with an interval that excludes 0. Best: in its part of the table, the edit "
            f"of highest F1 whose {scores.concept} is not above the tuned model's. {_NO_SHARE}",
        ),
    )


def steering_table(model: str, conditions: Sequence[ExplainCondition], scores: Scores) -> Table:
    """Table 12: strength of steering against toxicity, log-perplexity and F1."""
    measures = [name for name in ("toxicity", "logppl", "f1") if name in scores.conditions[BASE]]
    chosen = [row for row in conditions if row.name.startswith("steer")]
    strongest = strongest_steering(conditions, scores)
    labels = {row.name: f"{row.label} (chosen)" if row is strongest else row.label for row in chosen}
    rows = [_row("", "None", BASE, scores, measures, None)[1:-1]]
    rows += [_row("", label, name, scores, measures, None)[1:-1] for name, label in labels.items()]
    frame = [_numbers("Baselines", "none", BASE, scores)]
    frame += [_numbers(row.section, row.role, row.name, scores) for row in chosen]
    return Table(
        "table-12-steering",
        f"Steering of {model} with the direction, by strength (paper, Table 12).",
        _frame(frame),
        ("intervention", *(_named(scores)[name] for name in measures), f"{scores.concept}, × none"),
        tuple(rows),
        (
            "†: differs from None, paired, with an interval that excludes 0. Chosen: the longest αW with log-PPL "
            "within +0.3 and F1 above 0.95 × that of None.",
        ),
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
        labels: condition → what people read.
    """
    rows, frame = [], []
    for name, count in sets.items():
        share, other = shares.get(name), judged.get(name)
        rows.append((labels[name], f"{count:,}", percent(count / neurons, 3), _shown(share), _shown(other)))
        frame.append(
            {
                "model": model,
                "condition": name,
                "neurons": count,
                "of_all": count / neurons,
                **_share_columns("share_of_dpo", share),
                **_share_columns("share_of_dpo_judge", other),
            }
        )
    return Table(
        "table-03-toxic-neurons",
        f"Toxic neurons of {model}, and the share of tuning's reduction that patching them gives (paper, Table 3).",
        _frame(frame),
        ("neurons", "number", "of all", "share of tuning's reduction", "by the judge"),
        tuple(rows),
        (_NO_SHARE,),
    )


def _named(scores: Scores) -> dict[str, str]:
    """Measure → what people read, the concept by its own name."""
    return _MEASURES | {"toxicity": scores.concept}


def _row(
    section: str, label: str, name: str, scores: Scores, measures: Sequence[str], share: Share | None
) -> tuple[str, ...]:
    comparison = scores.against_none.get(name)
    cells = []
    for measure in measures:
        differs = comparison is not None and comparison.differences[measure].excludes_zero
        cells.append(f"{scores.conditions[name][measure]}{'†' if differs else ''}")
    ratio = "–" if comparison is None or comparison.toxicity_ratio is None else str(comparison.toxicity_ratio)
    return (section, label, *cells, ratio, _shown(share))


def _numbers(section: str, role: str, name: str, scores: Scores) -> dict[str, Any]:
    comparison = scores.against_none.get(name)
    numbers: dict[str, Any] = {
        "protocol": scores.protocol,
        "model": scores.model,
        "section": section,
        "role": role,
        "condition": name,
    }
    for measure, estimate in scores.conditions[name].items():
        numbers |= {f"{measure}_{part}": value for part, value in estimate.to_dict().items()}
        difference = None if comparison is None else comparison.differences.get(measure)
        for part in ("mean", "low", "high"):
            numbers[f"{measure}_difference_{part}"] = None if difference is None else difference.to_dict()[part]
    return numbers


def _frame(rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """A column without any value has its type all the same."""
    return pl.DataFrame(rows, infer_schema_length=None).cast({pl.Null: pl.Float64})


def _shown(share: Share | None) -> str:
    return "–" if share is None else str(share)


def _share_columns(name: str, share: Share | None) -> dict[str, float | None]:
    if share is None:
        return {f"{name}{end}": None for end in ("", "_low", "_high")}
    return {name: share.share, f"{name}_low": share.low, f"{name}_high": share.high}
