"""Compare an explanation with the paper: every number that the paper prints too, with the difference, or the reasons
why the two cannot be compared (Tables 2, 3, 5, 12, 13, 17, 18 and 19; text of 5.1)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

import polars as pl

from dposcope.directions.judge import judge_model
from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.numbers import COUNT, NOTHING, PRINTED, Format
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
    Compared,
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
"""Our condition → the paper's row."""

_PRINTED_RANKINGS: Mapping[Ranking, str] = {
    "cosine": "cosine",
    "reference": "cosine",
    "activation": "activation",
}
"""Our ranking → its name in the paper. `reference` is how the published code ranks by cosine."""

_OTHER_ALPHA = "α in another unit: the paper's is in norms of its own probe"
_OTHER_RANKINGS: Mapping[Ranking, str] = {
    "cosine": "neurons ranked by |cosine|, largest first, in every group; the published code ranks AP and TN smallest "
    "first",
    "activation": "neurons ranked by |activation|, smallest first, in every group; the published code, in a comment, "
    "does so in two groups only",
}
_NOT_TRIMMED = f"neurons of any activation; for GPT-2, the published code excludes those above percentile {TRIM:g}"
_TRIMMED = "strongly active neurons excluded; the published code does so for GPT-2 only"
_NO_DEFINITION = "the paper does not define its percentage; here it is mean |shift| over mean |activation|"


def beside_paper_tables(results: Results) -> list[Table]:
    """Two tables: interventions and neurons. The paper's other models are shown too, as context."""
    setting = setting_of(results)
    model = results.lm.name
    return [
        _table(BESIDE_PAPER[0], f"Interventions on {model}, compared with the paper (Tables 2, 3, 12, 19).",
               compare(interventions_of(results), setting)),
        _table(BESIDE_PAPER[1], f"Neurons of {model}, compared with the paper (Tables 3, 5, 13, 17, 18; 5.1).",
               compare(neurons_of(results), setting)),
    ]  # fmt: skip


def setting_of(results: Results) -> Setting:
    """The setting that our numbers were measured in."""
    used, base = results.instruments, results.scores.conditions[BASE]
    learn_prompts = results.explanation.contributions.before.about.get("prompts")
    if used.neutral is None:
        neutral = "built-in"
    elif not is_wikitext_2(used.neutral):
        neutral = "other"
    else:
        # With fewer windows than allowed, the whole text was read; else it may be longer.
        neutral = "whole" if base["logppl"].n < used.max_windows else "cut"
    return Setting(
        model=results.lm.name,
        recognised=recognise(results.lm.name, results.lm.model.config.to_dict()),
        protocol=results.scores.protocol,
        scorer=used.scorer,
        prompts=base["toxicity"].n,
        learn_prompts=learn_prompts if isinstance(learn_prompts, int) else None,
        passages=base["f1"].n,
        neutral=neutral,
        direction=results.explanation.direction.kind,
        token_judge=judge_model(used.token_judge),
        training=_training(results.training),
    )


def interventions_of(results: Results) -> list[OwnValue]:
    """Every mean of the paper's Tables 2, 12 and 19, and the shares of Table 3."""
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
                    # Table 2 lacks the last cell of the grid and the other ranking; Table 19 lacks probe-free edits.
                    table = "2" if printed == "cosine" and beta != 0.5 else "19"
                    values += _means(
                        results, edit.name, table, row="edit", direction=direction, alpha=alpha, beta=beta,
                        ranking=printed, unlike=_other_neurons(results, edit, ranking),
                    )  # fmt: skip
    for name in (TOXIC_TOKENS, "patch-top-256"):
        share = results.shares.get(name)
        if share is not None:
            values.append(OwnValue("3", _PATCHES[name], "share_of_dpo", share.share, *share.ends, direction="probe"))
    return values


def _other_neurons(results: Results, edit: ExplainCondition, ranking: Ranking) -> tuple[str, ...]:
    """How an edit's neurons differ from those of the published code (docs/paper-versus-code.md, c and d)."""
    reasons = [_OTHER_RANKINGS[ranking]] if ranking in _OTHER_RANKINGS else []
    gpt2 = results.lm.model.config.model_type == "gpt2"
    if edit.trim != (TRIM if gpt2 else None):
        reasons.append(_NOT_TRIMMED if gpt2 else _TRIMMED)
    return tuple(reasons)


def _other_alpha(results: Results, steering: ExplainCondition) -> tuple[str, ...]:
    """How a steering's strength differs from the one in the paper's Table 2; the paper prints it in Table 11."""
    steered = steering.steering
    if steered is None or steered.unit != "W":
        return (_OTHER_ALPHA,)
    known = recognise(results.lm.name, results.lm.model.config.to_dict())
    printed = [] if known is None else paper_values(table="11", model=known.model.name, row="steering")
    return tuple(
        f"α = {steered.alpha:g}, the paper's {value.printed}" for value in printed if value.value != steered.alpha
    )


def neurons_of(results: Results) -> list[OwnValue]:
    """Counts, shares and correlations. They have no interval, since they are of all neurons of a model."""
    compared = results.explanation
    shares, change = compared.shares, compared.change
    toxic = compared.patch_sets()["toxic tokens"]
    values = [OwnValue("3", _PATCHES[TOXIC_TOKENS], "neurons", len(toxic), direction="probe")]
    values += [
        OwnValue("5", str(share.group), "of_reducing", share.of_moved, direction="probe")
        for share in shares.groups
        if share.group.effect is Effect.REDUCES
    ]
    values += [
        OwnValue("5", "sum", "neurons", shares.reducing, direction="probe"),
        OwnValue("13", "neurons", "negative", shares.negative_before),
    ]
    for row, correlation, direction in (
        ("shift and alignment", compared.correlations.cosine, "probe"),
        ("shift and activation before", compared.correlations.activation, None),
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
        OwnValue(table, measure=name, value=estimate.mean, low=estimate.ends[0], high=estimate.ends[1], **where)
        for name in ("toxicity", "logppl", "f1")
        if (estimate := estimates.get(name)) is not None
    ]


def _training(record: TrainingRecord | None) -> Training | None:
    if record is None:
        return None
    # All pairs, as the paper counts them, including those for validation.
    return Training(record.pairs.total, record.settings.train, record.objective.kl_on, record.objective.kl_weight)


def _table(name: str, title: str, compared: Sequence[Compared]) -> Table:
    letters = _letters(compared)
    groups = [list(group) for _, group in groupby(compared, key=lambda comparison: comparison.own)]
    lines = [_line(group, letters) for group in groups]
    notes = [f"{letter}: {reason}." for reason, letter in letters.items()]
    if any(_own_cell(group).difference is None for group in groups):
        shared = _shared_reasons(groups)
        why = f"; of every such row: {'; '.join(shared)}" if shared else ""
        notes.insert(0, f"{NOTHING}: the two numbers cannot be compared{why}.")
    paper = [comparison.paper for comparison in compared]
    if any(map(printed_otherwise, paper)):
        others = {
            f"{value.place}, {value.row}, {_MEASURES[value.measure]} of {value.model}: {place} prints {other}"
            for value in paper
            for place, other in printed_otherwise(value)
        }
        notes.append(f"*: the paper contradicts itself: {'; '.join(sorted(others))}.")
    return Table(
        name,
        title,
        comparison_frame(compared),
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


def _letters(compared: Sequence[Compared]) -> dict[str, str]:
    """Reason or remark → a letter, so that cells stay short. Only those of the comparisons that rows show."""
    groups = [list(group) for _, group in groupby(compared, key=lambda comparison: comparison.own)]
    shared = _shared_reasons(groups)
    texts = [text for group in groups for text in _remarks(group) if text not in shared]
    return {text: _letter(place) for place, text in enumerate(dict.fromkeys(texts))}


def _shared_reasons(groups: Sequence[Sequence[Compared]]) -> list[str]:
    """Reasons that stand at every row that cannot be compared, and at no other: told once."""
    chosen = [_own_cell(group) for group in groups]
    kept = {text for one in chosen if one.difference is not None for text in (*one.reasons, *one.remarks)}
    apart = [one.reasons for one in chosen if one.difference is None]
    return [text for text in (apart[0] if apart else ()) if text not in kept and all(text in one for one in apart)]


def _letter(place: int) -> str:
    return chr(ord("a") + place) if place < 26 else f"a{place - 25}"


def _own_cell(group: Sequence[Compared]) -> Compared:
    """The comparison with the paper's number for our model; the first one if the paper does not have our model."""
    fitting = [comparison for comparison in group if comparison.difference is not None]
    return min(fitting or group, key=lambda comparison: len(comparison.reasons))


def _remarks(group: Sequence[Compared]) -> tuple[str, ...]:
    chosen = _own_cell(group)
    return chosen.reasons or chosen.remarks


def _line(group: Sequence[Compared], letters: Mapping[str, str]) -> dict[str, Any]:
    own, chosen = group[0].own, _own_cell(group)
    printed = {comparison.paper.model: _printed(comparison.paper) for comparison in group}
    marks = ", ".join(letters[text] for text in _remarks(group) if text in letters)
    form = _as_printed(chosen.paper)
    if chosen.difference is None:
        last = NOTHING + (f" ({marks})" if marks else "")
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
    """The paper's format: the same number of decimals, and per cent if the paper uses it."""
    if paper.measure == "neurons" and not paper.percent:
        return COUNT
    return Format("percent" if paper.percent else "fixed", paper.places)
