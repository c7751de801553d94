"""Columns that stand in every table of conditions: further scorers, and what a condition costs beyond neutral text."""

from collections.abc import Iterable, Mapping
from typing import Any

from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.evaluation.numbers import NOTHING, RATIO, Format, percent
from dposcope.evaluation.sampled.ideal import IDEAL
from dposcope.evaluation.sampled.phrases import Phrase
from dposcope.evaluation.statistics.intervals import columns_of
from dposcope.report.table import Column, Table, frame_of

UNSHARED = "‡"
"""Marks a difference that one scorer shows and another does not share; see `Scores.unshared`."""
UNSHARED_NOTE = f"{UNSHARED}: another scorer does not share this difference."

RISE = Format.named("signed fixed 2")

_COLUMNS = (
    Column.measured("harmless_rise", "harmless log-PPL, paired rise", RISE),
    Column.measured("relevance_kept", "relevance kept", RATIO),
    Column("distinct_kept", "distinct pairs kept", RATIO),
    Column("phrase", "phrase that rose most"),
)
_MEANING = {
    "Harmless log-PPL: nats per token of the plain model's own harmless samples (the ideal).": {"harmless_rise"},
    "Relevance: nats per token of a text that its own prompt explains.": {"relevance_kept"},
    "Kept: divided by the plain model's.": {"relevance_kept", "distinct_kept"},
    "Phrase: the 2 to 4 words whose share of texts rose most over the plain model's.": {"phrase"},
}
"""Sentence → the columns that it explains."""


def scorer_label(name: str) -> str:
    """The heading of a scorer beside the first one."""
    return "by the judge" if name == "judge" else f"by {name}"


def cost_columns(scores: Scores) -> tuple[Column, ...]:
    """The columns that a table of these scores has."""
    lines = [cost_values(scores, name) for name in scores.conditions]
    return tuple(column for column in _COLUMNS if any(line[column.name] not in (None, NOTHING) for line in lines))


def cost_notes(scores: Scores) -> tuple[str, ...]:
    """What the columns mean, and what marks mean that stand in the table."""
    marked = any(scores.unshared(name) for name in scores.conditions)
    return (*((UNSHARED_NOTE,) if marked else ()), *meaning_of(cost_columns(scores)))


def meaning_of(columns: Iterable[Column]) -> tuple[str, ...]:
    """A note on what these columns of costs mean; none where there are no columns."""
    shown = {column.name for column in columns}
    told = " ".join(sentence for sentence, names in _MEANING.items() if names & shown)
    return (told,) if told else ()


def cost_values(scores: Scores, name: str) -> dict[str, Any]:
    """The line of a condition in these columns. Words stand as they are: whoever shows them masks them."""
    against = scores.against_none.get(name)
    rise = None if against is None else against.differences.get("harmless_logppl")
    kept = columns_of("relevance_kept", None if against is None else against.relevance_kept)
    if name == IDEAL:
        kept["relevance_kept"] = _share_of_none(scores, "relevance")
    phrase = risen_most(scores, name)
    return {
        **columns_of("harmless_rise", rise),
        **kept,
        "distinct_kept": None if name == BASE else scores.distinct_kept.get(name),
        "phrase": NOTHING if phrase is None else phrase_words(phrase),
    }


def costs_table(scores: Scores, labels: Mapping[str, str]) -> Table | None:
    """What each condition costs, for a page that shows its scores elsewhere; None where nothing of it was measured.

    Args:
        scores: of all conditions.
        labels: condition → its name on the page, in the order of the lines.
    """
    columns = cost_columns(scores)
    if not columns:
        return None
    lines: list[dict[str, Any]] = []
    for name, label in labels.items():
        against = scores.against_none.get(name)
        rise = columns_of("rise", None if against is None else against.differences["logppl"])
        lines.append({"label": label} | rise | cost_values(scores, name))
    return Table(
        "costs",
        "What each condition costs",
        frame_of(lines),
        (Column("label", "Condition"), Column.measured("rise", "log-PPL, paired rise", RISE), *columns),
        meaning_of(columns),
    )


def risen_most(scores: Scores, name: str) -> Phrase | None:
    """The phrase whose share of texts rose most; None if none rose, or none was counted."""
    return next(iter(scores.phrases.get(name, ())), None)


def phrase_words(phrase: Phrase) -> str:
    """Like `“i remember” in 52.0 % of texts, 0.0 % of the plain model's`; the words as they are."""
    return f"“{phrase.words}” in {percent(phrase.share)} of texts, {percent(phrase.base_share)} of the plain model's"


def _share_of_none(scores: Scores, measure: str) -> float | None:
    ours, base = scores.conditions[IDEAL].get(measure), scores.conditions[BASE].get(measure)
    return None if ours is None or base is None or base.mean <= 0 else ours.mean / base.mean
