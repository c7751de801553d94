"""The page of an edit as HTML."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from dposcope.artefacts import write_text
from dposcope.errors import plural
from dposcope.evaluation.numbers import DIFFERENCE, MEAN, NOTHING, RATIO, fixed, signed
from dposcope.evaluation.statistics.intervals import Difference
from dposcope.report.costs import UNSHARED, UNSHARED_NOTE, costs_table
from dposcope.report.edit.figures import change_scatter, group_bars, strength_curve
from dposcope.report.edit.page import Condition, EditPage, Role, Sample, Tradeoff
from dposcope.report.edit.tradeoff import HeldOut, tradeoff, tradeoff_svg
from dposcope.report.edit.verdict import best_sentences, findings, verdict
from dposcope.report.figures import Row, figure_svg, interval_dots
from dposcope.report.glossary import DISTINCT, TERMS, Measure, measures_of, sentence_case
from dposcope.report.masked_text import ShownText
from dposcope.report.shell import flatten, render

ROLES: tuple[tuple[Role, str], ...] = (
    ("base", ""),
    ("edit", ""),
    ("part", "Parts of the edit alone"),
    ("control", "Controls"),
    ("paper", "Other interventions, the paper's among them"),
    ("limit", "The limit of an edit"),
)
"""Roles in the order of the tables, with their headings. The first two have one row each and no heading."""

_AMONG_COSTS = ("harmless_logppl", "relevance")
"""Measures that stand in the table of costs, beside neutral text."""

_FEW_SAMPLES = 8
"""How many samples are unfolded."""

_SMALL_CHANGE = 0.05
"""Smallest change of a prompt's score that counts as a fall or a rise."""


def write_report(page: EditPage, path: str | Path) -> None:
    """Write the page of an edit, whole or not at all.

    Raises:
        DposcopeError: the file cannot be written.
    """
    write_text(path, render_page(page))


def render_page(page: EditPage) -> str:
    """The page of an edit as HTML; the same page gives the same text."""
    shown = ShownText()
    numbers = findings(page)
    named = measures_of(page.scores.concept, page.scores.further)
    explained = [measure for measure in named if measure.key in page.scores.conditions[page.base.name]]
    measures = [measure for measure in explained if measure.key not in _AMONG_COSTS]
    costs = costs_table(page.scores, {one.name: one.label for one in page.conditions if one.role != "base"})
    # The table of costs has the rise of log-perplexity, too.
    compared = [measure for measure in measures if costs is None or measure.key != "logppl"]
    return render(
        "report/edit/edit.html.jinja",
        shown,
        page=page,
        verdict=_unbroken(verdict(page), shown),
        best=[_unbroken(sentence, shown) for sentence in best_sentences(page)],
        findings=numbers,
        columns=_columns(len(numbers)),
        measures=measures,
        compared=compared,
        distinct=DISTINCT,
        terms=TERMS,
        means=_grouped(page, lambda condition: _mean_cells(page, condition, measures)),
        differences=_grouped(
            page, lambda condition: _difference_cells(page, condition, compared), skip=("base", "limit")
        ),
        explained=explained,
        unshared=UNSHARED_NOTE if any(page.scores.unshared(condition.name) for condition in page.conditions) else "",
        costs=costs,
        holm_note=page.scores.holm_note,
        counts=_counts(page),
        figures=_figures(page, shown),
        samples=[_sample(page, sample) for sample in page.samples],
        few=_FEW_SAMPLES,
        direction=flatten(page.direction),
        judge=flatten(page.judge or {}),
        concept=page.scores.concept,
        concept_label=sentence_case(page.scores.concept),
    )


@dataclass(frozen=True)
class _Cell:
    """One number of a table."""

    value: str
    interval: str = ""
    mark: str = ""
    """better, worse, or empty if the difference may be chance."""


@dataclass(frozen=True)
class _Line:
    condition: Condition
    cells: list[_Cell]


@dataclass(frozen=True)
class _RoleLines:
    heading: str
    lines: list[_Line]


def _grouped(page: EditPage, cells: Any, skip: Sequence[Role] = ()) -> list[_RoleLines]:
    groups = [
        _RoleLines(heading, [_Line(condition, cells(condition)) for condition in page.with_role(role)])
        for role, heading in ROLES
        if role not in skip
    ]
    return [group for group in groups if group.lines]


def _mean_cells(page: EditPage, condition: Condition, measures: list[Measure]) -> list[_Cell]:
    estimates = [page.scores.conditions[condition.name].get(measure.key) for measure in measures]
    cells = [
        _Cell(NOTHING) if estimate is None else _Cell(fixed(estimate.mean), estimate.told(MEAN))
        for estimate in estimates
    ]
    distinct = page.scores.distinct_2.get(condition.name)
    return [*cells, _Cell(NOTHING if distinct is None else fixed(distinct))]


def _difference_cells(page: EditPage, condition: Condition, measures: list[Measure]) -> list[_Cell]:
    comparison = page.scores.against_none[condition.name]
    ratio = comparison.toxicity_ratio
    # The ratio has no mark, since only the difference is tested.
    first = _Cell(NOTHING) if ratio is None else _Cell(RATIO.value(ratio.ratio), ratio.told(RATIO))
    unshared = page.scores.unshared(condition.name)
    cells = (
        _difference_cell(
            comparison.differences[one.key],
            one,
            UNSHARED if one.key in unshared else "",
            shown=condition.name in page.scores.differing(one.key),
        )
        for one in measures
    )
    return [first, *cells]


def _difference_cell(difference: Difference, measure: Measure, sign: str, *, shown: bool) -> _Cell:
    mark = ""
    if shown:
        better = (difference.mean > 0) == (measure.better == "higher")
        mark = "worse" if not better else "" if measure.price else "better"
    return _Cell(f"{signed(difference.mean)}{sign}", difference.told(DIFFERENCE), mark)


def _unbroken(sentence: str, shown: ShownText) -> Markup:
    """A sentence as HTML without line breaks inside intervals and ratios."""
    parts = re.split(r"(\(?[\d.]+–[\d.]+\)?|[\d.]+ ×)", sentence)
    whole = Markup('<span class="whole">{}</span>')
    return Markup("").join(whole.format(part) if index % 2 else shown.text(part) for index, part in enumerate(parts))


def _columns(count: int) -> int:
    """Number of columns, at most six, that fills rows evenly: seven findings are shown as four and three."""
    return math.ceil(count / math.ceil(count / 6))


def _counts(page: EditPage) -> str:
    base = page.scores.conditions[page.base.name]
    return (
        f"{plural(base['toxicity'].n, 'prompt')}, {plural(base['f1'].n, 'passage')} for F1, "
        f"{plural(base['logppl'].n, 'window')} of neutral text for log-perplexity"
    )


@dataclass(frozen=True)
class _Written:
    label: str
    role: Role
    text: str
    score: float


@dataclass(frozen=True)
class _ShownSample:
    prompt: str
    pair: list[_Written]
    others: list[_Written]


def _sample(page: EditPage, sample: Sample) -> _ShownSample:
    pair, others = [], []
    for condition in page.conditions:
        if condition.name in sample.continuations:
            score = sample.toxicity[condition.name]
            # Most continuations begin with a space, which would only indent the text.
            text = sample.continuations[condition.name].removeprefix(" ")
            written = _Written(condition.label, condition.role, text, score)
            (pair if condition.role in ("base", "edit") else others).append(written)
    return _ShownSample(sample.prompt, pair, others)


@dataclass(frozen=True)
class _PageFigure:
    svg: Markup
    caption: str


def _figures(page: EditPage, shown: ShownText) -> dict[str, _PageFigure]:
    """Name → figure. The page's switch does not act on text in figures, so that text stays masked."""
    figures = {"conditions": _conditions_figure(page, shown)}
    before, after = page.changes
    if before:
        figures["changes"] = _changes_figure(page, shown, before, after)
    if page.tradeoff is not None:
        figures["tradeoff"] = _tradeoff_figure(page, page.tradeoff, shown)
    if page.search:
        steps = plural(len(page.search), "trial")
        figures["search"] = _PageFigure(
            figure_svg(
                strength_curve(page.search, bound=page.bound, chosen=page.chosen_strength),
                name="search",
                description=f"{steps} of the strength and the rise of log-perplexity: {_steps_seen(page)}.",
            ),
            "Rise of log-perplexity at each strength tried, with intervals over windows. Diamond: the chosen strength.",
        )
    if page.groups:
        groups = [type(group)(shown.plain(group.group), group.size, group.chosen) for group in page.groups]
        sizes = "; ".join(f"{group.group}: {group.chosen:,} of {group.size:,}" for group in groups)
        figures["groups"] = _PageFigure(
            figure_svg(group_bars(groups), name="groups", description=f"Neurons edited per group. {sizes}."),
            "Neurons per group; the filled part is edited.",
        )
    return figures


def _conditions_figure(page: EditPage, shown: ShownText) -> _PageFigure:
    rows = [
        Row(shown.plain(condition.label), role, page.scores.conditions[condition.name]["toxicity"])
        for role, _ in ROLES
        for condition in page.with_role(role)
    ]
    spoken = "; ".join(f"{row.label} {row.estimate}" for row in rows)
    base = page.scores.conditions[page.base.name]["toxicity"].mean
    concept = shown.plain(page.scores.concept)
    return _PageFigure(
        figure_svg(
            interval_dots(rows, axis=f"mean {concept}, 0 to 1", reference=base),
            name="conditions",
            description=f"Mean {concept} with 95 per cent intervals. {spoken}.",
        ),
        f"Mean {concept} of every condition with its interval; dashed: the plain model.",
    )


def tradeoff_of(page: EditPage, search: Tradeoff) -> Figure:
    """The page's trade-off as a figure of its own."""
    rise = page.scores.against_none[page.edit_condition.name].differences["logppl"]
    concept = ShownText().plain(page.scores.concept)
    return tradeoff(search, bound=page.bound, held_out=HeldOut(search.unseen, rise), concept=concept)


def _tradeoff_figure(page: EditPage, search: Tradeoff, shown: ShownText) -> _PageFigure:
    concept = shown.plain(page.scores.concept)
    by = f" (by the {search.unseen_scorer})" if search.unseen_scorer else ""
    return _PageFigure(
        tradeoff_svg(
            search,
            tradeoff_of(page, search),
            description=f"Mean {concept} against the rise of log-perplexity, {plural(len(search.trials), 'trial')}. "
            f"{_tradeoff_seen(search)}",
        ),
        f"What each trial gives ({concept} by the {search.scorer}, lower is better) and costs (log-perplexity, left is "
        "better), with its interval over prompts. Lines join the best trials of each source. The wide pale line is the "
        "front: no other trial with texts within the bound is better in both. Circle: the chosen edit on the search "
        f"prompts; diamond: on the table's prompts and text{by}, with both intervals. Dotted: the bound. Point at a "
        "mark to see its settings.",
    )


def _steps_seen(page: EditPage) -> str:
    steps = sorted(page.search, key=lambda step: step.strength)
    return "; ".join(f"at {fixed(step.strength, 2)} {signed(step.increase.mean)}" for step in steps)


def _tradeoff_seen(search: Tradeoff) -> str:
    written = [trial for trial in search.trials if trial.concept is not None]
    scores = [trial.concept.mean for trial in written if trial.concept is not None]
    if not written:
        return "None wrote."
    rises = [trial.rise for trial in written]
    return (
        f"The {len(written):,} that wrote score {fixed(min(scores))} to {fixed(max(scores))} at rises of "
        f"{signed(min(rises))} to {signed(max(rises))}; plain model {fixed(search.base)}; the chosen edit "
        f"{fixed(search.chosen.mean)} at {signed(search.chosen_rise)}."
    )


def _changes_figure(page: EditPage, shown: ShownText, before: list[float], after: list[float]) -> _PageFigure:
    changes = [new - old for old, new in zip(before, after, strict=True)]
    fell, rose = (sum(sign * change > _SMALL_CHANGE for change in changes) for sign in (-1, 1))
    concept = shown.plain(page.scores.concept)
    which = "measured prompts" if page.per_prompt else "prompts shown below"
    caption = (
        f"{sentence_case(concept)} of each of the {len(changes):,} {which}, before and after. It fell by more than "
        f"{_SMALL_CHANGE} in {fell:,}, rose by more than that in {rose:,}, and stayed about the same in "
        f"{len(changes) - fell - rose:,}."
    )
    names = (shown.plain(page.base.label), shown.plain(page.edit_condition.label))
    figure = change_scatter(before, after, axis=concept, names=names)
    description = (
        f"One dot a prompt, its {concept} before across and after up: {fell:,} dots lie below the diagonal, {rose:,} "
        f"above it, {len(changes) - fell - rose:,} near it. Means {fixed(sum(before) / len(before))} and "
        f"{fixed(sum(after) / len(after))}."
    )
    return _PageFigure(figure_svg(figure, name="changes", description=description), caption)
