"""An explanation beside the paper: every number of ours that the paper prints too, with the difference or the reasons
why there is none (Tables 2, 3, 5, 12, 13, 17, 18 and 19; text of 5.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import polars as pl

from dposcope.directions.judge import judge_model
from dposcope.evaluation.numbers import COUNT, PRINTED, Format
from dposcope.evaluation.suite import BASE
from dposcope.jobs.dpo.training_record import TrainingRecord
from dposcope.jobs.explain.conditions import (
    GRID,
    TRIM,
    TUNED,
    EditDirection,
    EditSetting,
    ExplainCondition,
    edit_among,
)
from dposcope.jobs.explain.patches import FOUR_GROUPS, INCREASING, TOXIC_TOKENS
from dposcope.jobs.explain.results import Results
from dposcope.jobs.explain.tables.intervention import strongest_steering
from dposcope.neurons.contributions import Effect
from dposcope.neurons.groups import Ranking
from dposcope.paper.comparison import (
    MODEL_NAMES,
    Beside,
    OwnValue,
    Setting,
    Training,
    compare,
    comparison_frame,
)
from dposcope.paper.models import recognise
from dposcope.paper.numbers import EVERY_MODEL, PaperValue, paper_values, printed_otherwise
from dposcope.paper.wikitext import is_wikitext_2
from dposcope.report.table import Column, Table

BESIDE_PAPER = ("beside-paper-interventions", "beside-paper-neurons")
"""Names of the tables."""

_MEASURES = {
    "toxicity": "toxicity",
    "logppl": "log-PPL",
    "f1": "F1",
    "share_of_dpo": "share of DPO's reduction",
    "neurons": "neurons",
    "of_reducing": "share of ↓ neurons",
    "share_reducing": "share of all neurons, ↓",
    "negative": "share with a negative mean before",
    "r": "Pearson r",
    "vector_cosine": "cosine, mean",
    "shift": "shift in per cent",
}
_PATCHES = {
    TOXIC_TOKENS: "patch toxic neurons",
    "patch-top-256": "patch 256 neurons",
    "patch-TP": "patch TP↓",
    "patch-TP+AN": "patch TP↓+AN↓",
    "patch-TP+AN+TN": "patch TP↓+AN↓+TN↓",
    FOUR_GROUPS: "patch four groups",
    INCREASING: "patch ↑ neurons",
}
"""Our conditions, and the paper's rows."""

_PRINTED_RANKINGS: Mapping[Ranking, str] = {
    "cosine": "cosine",
    "reference": "cosine",
    "activation": "activation",
}
"""Our rankings, and what the paper calls them: `reference` is its code's cosine."""

_OTHER_ALPHA = "α in another unit: the paper's counts the norm of its own probe"
_OTHER_RANKINGS: Mapping[Ranking, str] = {
    "cosine": "neurons ranked by |cosine| in every group, by the published code the other way round in AP and TN",
    "activation": "neurons ranked by |activation| upwards in every group, by the published code, where it stands in a "
    "comment, in two groups alone",
}
_NOT_TRIMMED = f"neurons of any activation; the published code takes none of GPT-2 above percentile {TRIM:g}"
_TRIMMED = "strongly active neurons left out; the published code does so for GPT-2 alone"
_NO_DEFINITION = "the paper does not say what its per cent is of; here mean |shift| over mean |activation|"


def beside_paper_tables(results: Results) -> list[Table]:
    """Two tables: interventions, and neurons. Other models of the paper stand beside ours as context."""
    setting = setting_of(results)
    model = results.lm.name
    return [
        _table(BESIDE_PAPER[0], f"Interventions on {model} beside the paper's numbers (Tables 2, 3, 12, 19).",
               compare(interventions_of(results), setting)),
        _table(BESIDE_PAPER[1], f"Neurons of {model} beside the paper's numbers (Tables 3, 5, 13, 17, 18; 5.1).",
               compare(neurons_of(results), setting)),
    ]  # fmt: skip


def setting_of(results: Results) -> Setting:
    """What the numbers were measured with."""
    settings, base = results.settings, results.scores.conditions[BASE]
    learnt = results.found.contributions.before.about.get("prompts")
    source = settings.get("neutral")
    if source is None:
        neutral = "built-in"
    elif not is_wikitext_2(source):
        neutral = "other"
    else:
        # As many windows as were allowed: the text may go on.
        neutral = "whole" if base["logppl"].n < settings["max_windows"] else "cut"
    return Setting(
        model=results.lm.name,
        recognised=recognise(results.lm.name, results.lm.model.config.to_dict()),
        protocol=results.scores.protocol,
        scorer=settings["scorer"],
        prompts=base["toxicity"].n,
        learn_prompts=learnt if isinstance(learnt, int) else None,
        passages=base["f1"].n,
        neutral=neutral,
        direction=results.found.direction.kind,
        token_judge=judge_model(settings["token_judge"]),
        training=_training(results.training),
    )


def interventions_of(results: Results) -> list[OwnValue]:
    """Every mean that the paper's Tables 2 and 19 have, and the shares of Table 3."""
    measured = {row.name for row in results.conditions} | {BASE}
    steering = strongest_steering(results.conditions, results.scores)
    values = _means(results, BASE, "2", row="none")
    if steering is not None:
        values += _means(
            results, steering.name, "2", row="steering", direction="probe", unlike=_other_alpha(results, steering)
        )
    for row in results.conditions:
        if row.role == "steer" and row.steering is not None and row.steering.unit == "W":
            values += _means(results, row.name, "12", row="steering", direction="probe", alpha=row.steering.alpha)
    values += _means(results, TUNED, "2", row="dpo")
    for name, row in _PATCHES.items():
        if name in measured:
            values += _means(results, name, "19" if name == INCREASING else "2", row=row, direction="probe")
    directions: Mapping[EditDirection, str] = {"probe": "probe", "free": "token_contrast"}
    for kind, direction in directions.items():
        for ranking, printed in _PRINTED_RANKINGS.items():
            for alpha, beta in GRID:
                edit = edit_among(results.conditions, EditSetting("assign", kind, ranking, alpha, beta))
                if edit is not None:
                    # Table 2 leaves out the last of the grid and the other ranking; Table 19 the probe-free edits.
                    table = "2" if printed == "cosine" and beta != 0.5 else "19"
                    values += _means(
                        results, edit.name, table, row="edit", direction=direction, alpha=alpha, beta=beta,
                        ranking=printed, unlike=_other_neurons(results, edit, ranking),
                    )  # fmt: skip
    for name in (TOXIC_TOKENS, "patch-top-256"):
        share = results.shares.get(name)
        if share is not None:
            values.append(
                OwnValue("3", _PATCHES[name], "share_of_dpo", share.share, share.low, share.high, direction="probe")
            )
    return values


def _other_neurons(results: Results, edit: ExplainCondition, ranking: Ranking) -> tuple[str, ...]:
    """Why an edit's neurons are not those that the published code takes (docs/paper-versus-code.md, c and d)."""
    reasons = [_OTHER_RANKINGS[ranking]] if ranking in _OTHER_RANKINGS else []
    gpt2 = results.lm.model.config.model_type == "gpt2"
    if edit.trim != (TRIM if gpt2 else None):
        reasons.append(_NOT_TRIMMED if gpt2 else _TRIMMED)
    return tuple(reasons)


def _other_alpha(results: Results, steering: ExplainCondition) -> tuple[str, ...]:
    """Why a steering's strength is not the one of the paper's Table 2, which is that of its Table 11."""
    steered = steering.steering
    if steered is None or steered.unit != "W":
        return (_OTHER_ALPHA,)
    known = recognise(results.lm.name, results.lm.model.config.to_dict())
    printed = [] if known is None else paper_values(table="11", model=known.model.name, row="steering")
    return tuple(f"α = {steered.alpha:g}, the paper's {one.printed}" for one in printed if one.value != steered.alpha)


def neurons_of(results: Results) -> list[OwnValue]:
    """Counts, shares and correlations, which have no interval: they are of whole models."""
    found = results.found
    shares, change = found.shares, found.change
    toxic = found.patch_sets()["toxic tokens"]
    values = [OwnValue("3", _PATCHES[TOXIC_TOKENS], "neurons", len(toxic), direction="probe")]
    values += [
        OwnValue("5", str(one.group), "of_reducing", one.of_moved, direction="probe")
        for one in shares.groups
        if one.group.effect is Effect.REDUCES
    ]
    values += [
        OwnValue("5", "sum", "neurons", shares.reducing, direction="probe"),
        OwnValue("13", "neurons", "negative", shares.negative_before),
    ]
    for row, correlation, direction in (
        ("shift and alignment", found.correlations.cosine, "probe"),
        ("shift and activation before", found.correlations.activation, None),
    ):
        if correlation.r is not None:
            values.append(OwnValue("17", row, "r", correlation.r, direction=direction))
    return [
        *values,
        OwnValue("18", "neurons", "share_reducing", shares.share_reducing, direction="probe"),
        OwnValue("text", "value vectors before and after", "vector_cosine", change.vector_cosine),
        OwnValue("text", "average shift", "shift", change.shift_percent / 100, unlike=(_NO_DEFINITION,)),
    ]


def _means(results: Results, condition: str, table: str, **where: Any) -> list[OwnValue]:
    estimates = results.scores.conditions[condition]
    return [
        OwnValue(table, measure=name, value=one.mean, low=one.low, high=one.high, **where)
        for name in ("toxicity", "logppl", "f1")
        if (one := estimates.get(name)) is not None
    ]


def _training(found: TrainingRecord | None) -> Training | None:
    if found is None:
        return None
    # Of all pairs, as the paper counts them: some are kept for validation.
    return Training(found.pairs.total, found.settings.train, found.objective.kl_on, found.objective.kl_weight)


def _table(name: str, title: str, found: Sequence[Beside]) -> Table:
    letters = _letters(found)
    lines = [_line(list(beside), letters) for _, beside in groupby(found, key=lambda one: one.own)]
    notes = [f"{letter}: {reason}." for reason, letter in letters.items()]
    paper = [one.paper for one in found]
    if any(map(printed_otherwise, paper)):
        others = {
            f"{one.place}, {one.row}, {_MEASURES[one.measure]} of {one.model}: {place} prints {other}"
            for one in paper
            for place, other in printed_otherwise(one)
        }
        notes.append(f"*: the paper contradicts itself: {'; '.join(sorted(others))}.")
    return Table(
        name,
        title,
        comparison_frame(found),
        (
            Column("place", "paper"),
            Column("row", "row"),
            Column("measure", "measure"),
            Column("here", "here", interval=("low", "high"), formats="format"),
            *(Column(model, model, PRINTED) for model in MODEL_NAMES),
            Column("difference", "here − paper"),
        ),
        tuple(notes),
        view=pl.DataFrame(lines, schema=_LINE),
    )


_LINE = {
    **dict.fromkeys(("place", "row", "measure"), pl.String),
    **dict.fromkeys(("here", "low", "high"), pl.Float64),
    **dict.fromkeys(("format", *MODEL_NAMES, "difference"), pl.String),
}


def _letters(found: Sequence[Beside]) -> dict[str, str]:
    """Reason or remark → a letter, so that cells stay short; only what stands beside a row's own cell."""
    said = [text for _, beside in groupby(found, key=lambda one: one.own) for text in _said(list(beside))]
    return {text: _letter(place) for place, text in enumerate(dict.fromkeys(said))}


def _letter(place: int) -> str:
    return chr(ord("a") + place) if place < 26 else f"a{place - 25}"


def _own_cell(beside: Sequence[Beside]) -> Beside:
    """The comparison with our own model, or the first where the paper has not got it."""
    fitting = [one for one in beside if one.difference is not None]
    return min(fitting or beside, key=lambda one: len(one.reasons))


def _said(beside: Sequence[Beside]) -> tuple[str, ...]:
    chosen = _own_cell(beside)
    return chosen.reasons or chosen.remarks


def _line(beside: Sequence[Beside], letters: Mapping[str, str]) -> dict[str, Any]:
    own, chosen = beside[0].own, _own_cell(beside)
    printed = {one.paper.model: _printed(one.paper) for one in beside}
    marks = ", ".join(letters[text] for text in _said(beside))
    form = _as_printed(chosen.paper)
    if chosen.difference is None:
        last = f"not comparable: {marks}"
    else:
        last = replace(form, sign=True).value(chosen.difference) + (f" ({marks})" if marks else "")
    return {
        "place": chosen.paper.place,
        "row": _label(own),
        "measure": _MEASURES[own.measure],
        "here": own.value,
        "low": own.low,
        "high": own.high,
        "format": str(form),
        **{name: printed.get(name, printed.get(EVERY_MODEL)) for name in MODEL_NAMES},
        "difference": last,
    }


def _label(own: OwnValue) -> str:
    if own.row != "edit":
        return own.row
    kind = "probe-free" if own.direction == "token_contrast" else "probe"
    return f"edit, {kind}, α = {own.alpha:g}, β = {own.beta:g}, by {own.ranking}"


def _printed(value: PaperValue) -> str:
    return f"{value.printed}*" if printed_otherwise(value) else value.printed


def _as_printed(paper: PaperValue) -> Format:
    """As many places as the paper prints, per cent where it has them."""
    if paper.measure == "neurons" and not paper.percent:
        return COUNT
    return Format("percent" if paper.percent else "fixed", paper.places)
