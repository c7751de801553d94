"""Comparison of our numbers with the paper's: a difference if model and setting match, otherwise the reasons.

Nothing is measured here. `UNLIKE` holds the paper's setting, and compares it with ours.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Literal

import polars as pl

from dposcope.paper.models import MODELS, Recognised
from dposcope.paper.numbers import EVERY_MODEL, PaperValue, paper_values, printed_otherwise

PROMPTS, PASSAGES, PAIRS = 1_199, 2_000, 24_576
"""The paper's numbers of prompts, of passages for F1 (3.1), and of pairs for DPO."""

SCORER = "unitary/toxic-bert"
"""The classifier of Detoxify's *original*, which is the paper's scorer (3.1)."""


@dataclass(frozen=True)
class Training:
    """Training of the tuned model."""

    pairs: int
    trained: str
    """`full`, `lora` or `gains`."""
    kl_on: str
    """`pairs` or `neutral`."""
    kl_weight: float
    """λ."""


@dataclass(frozen=True)
class Setting:
    """The setting of our numbers."""

    model: str
    """The user's name for it."""
    recognised: Recognised | None
    """Which of the paper's models it is; see `recognise`."""
    protocol: str
    scorer: str
    prompts: int
    """Number of prompts that toxicity is measured on."""
    learn_prompts: int | None
    """Number of prompts that neuron means are computed on; None if it is not known."""
    passages: int
    neutral: Literal["whole", "cut", "other", "built-in"]
    """Text for log-perplexity: all of WikiText-2's test part (whole), its first windows (cut), another text of the
    user, or the built-in text."""
    direction: str
    """Its kind: `probe`, `mean_difference` …"""
    token_judge: str
    """Judge of toxic tokens: `words`, or the model of an endpoint."""
    training: Training | None
    """None if it is not known."""


@dataclass(frozen=True)
class OwnValue:
    """One of our numbers, with the keys of the paper's number to compare it with."""

    table: str
    row: str
    measure: str
    value: float
    low: float | None = None
    """Lower end of the 95 % interval; None without an interval."""
    high: float | None = None
    direction: str | None = None
    alpha: float | None = None
    beta: float | None = None
    ranking: str | None = None
    unlike: tuple[str, ...] = ()
    """Reasons why this number cannot be compared with the paper's."""

    @property
    def key(self) -> tuple[object, ...]:
        """The keys that the paper's value must have."""
        return (self.table, self.row, self.measure, self.direction, self.alpha, self.beta, self.ranking)


@dataclass(frozen=True)
class Compared:
    """A comparison of one of our numbers with one of the paper's."""

    own: OwnValue
    paper: PaperValue
    difference: float | None
    """Ours − the paper's; None if they are not comparable."""
    reasons: tuple[str, ...]
    """Why they are not comparable; empty if they are."""
    contradictions: tuple[str, ...]
    """Other numbers that the paper prints for the same thing."""
    remarks: tuple[str, ...]
    """Remarks on the comparison."""

    @property
    def note(self) -> str:
        """Text for a reader: `not comparable: …`, or the remarks."""
        if self.reasons:
            return f"not comparable: {'; '.join(self.reasons)}"
        return "; ".join(self.contradictions + self.remarks)


def compare(ours: Sequence[OwnValue], setting: Setting) -> list[Compared]:
    """Compare each of our numbers with every matching number of the paper, for all of its models.

    Args:
        ours: means, counts and shares; a share is in 0 … 1, as in `PaperValue.value`.
        setting: the setting of our numbers.

    Returns:
        One row per number of ours and matching value of the paper, in the order of `ours`. A number without a match
        gives no row. There is a difference only for the same model and a matching setting.
    """
    printed: dict[tuple[object, ...], list[PaperValue]] = {}
    for one in paper_values():
        key = (one.table, one.row, one.measure, one.direction, one.alpha, one.beta, one.ranking)
        printed.setdefault(key, []).append(one)
    return [_beside(own, paper, setting) for own in ours for paper in printed.get(own.key, [])]


def comparison_frame(comparisons: Sequence[Compared]) -> pl.DataFrame:
    """One row per comparison: place, table, row, direction, alpha, beta, ranking, measure, paper_model, printed, paper,
    ours, low, high, difference, comparable, note."""
    schema = {
        **dict.fromkeys(("place", "table", "row", "direction"), pl.String),
        **dict.fromkeys(("alpha", "beta"), pl.Float64),
        **dict.fromkeys(("ranking", "measure", "paper_model", "printed"), pl.String),
        **dict.fromkeys(("paper", "ours", "low", "high", "difference"), pl.Float64),
        "comparable": pl.Boolean,
        "note": pl.String,
    }
    rows = [
        {
            "place": one.paper.place,
            **{name: getattr(one.paper, name) for name in ("table", "row", "direction", "alpha", "beta", "ranking")},
            "measure": one.paper.measure,
            "paper_model": one.paper.model,
            "printed": one.paper.printed,
            "paper": one.paper.value,
            "ours": one.own.value,
            "low": one.own.low,
            "high": one.own.high,
            "difference": one.difference,
            "comparable": one.difference is not None,
            "note": one.note,
        }
        for one in comparisons
    ]
    return pl.DataFrame(rows, schema=schema)


def _beside(own: OwnValue, paper: PaperValue, setting: Setting) -> Compared:
    reasons = [*_other_model(paper, setting), *own.unlike]
    for need in _needs(own):
        reasons += UNLIKE[need](setting)
    if paper.value is None:
        reasons.append(f"the paper prints {paper.printed}, which is no number")
    contradictions = tuple(f"{place} prints {other}" for place, other in printed_otherwise(paper))
    known = setting.recognised
    remarks = (known.remark,) if known is not None and known.remark else ()
    difference = None if reasons or paper.value is None else own.value - paper.value
    return Compared(own, paper, difference, tuple(reasons), contradictions, remarks)


def _other_model(paper: PaperValue, setting: Setting) -> list[str]:
    if setting.recognised is None:
        return [f"the paper has no {setting.model}"]
    if paper.model in (setting.recognised.model.name, EVERY_MODEL):
        return []
    return [f"printed of {paper.model}, measured of {setting.recognised.model.name}"]


Need = Literal["protocol", "scorer", "prompts", "learn", "passages", "neutral", "direction", "judge", "training"]

_OF_MEASURE: Mapping[str, tuple[Need, ...]] = {
    "toxicity": ("protocol", "scorer", "prompts"),
    "logppl": ("protocol", "neutral"),
    "f1": ("protocol", "passages"),
    "share_of_dpo": ("protocol", "scorer", "prompts", "training"),
    "neurons": ("protocol",),
    "negative": ("protocol", "learn"),
    "vector_cosine": ("training",),
    "of_reducing": ("protocol", "learn", "training"),
    "share_reducing": ("protocol", "learn", "training"),
    "r": ("protocol", "learn", "training"),
    "shift": ("protocol", "learn", "training"),
}
_OF_ROW: Mapping[str, tuple[Need, ...]] = {
    "dpo": ("training",),
    "edit": ("learn",),
    "sum": ("learn", "training"),
}


def _needs(own: OwnValue) -> list[Need]:
    """The parts of the setting that must match for this number to be comparable."""
    needs: list[Need] = [*_OF_MEASURE.get(own.measure, ()), *_OF_ROW.get(own.row, ())]
    if own.row.startswith("patch") and own.measure != "neurons":
        needs.extend(("learn", "training"))
    if own.row == "patch toxic neurons":
        needs.append("judge")
    if own.direction == "probe":
        needs.append("direction")
    return list(dict.fromkeys(needs))


def _protocol(here: Setting) -> list[str]:
    if here.protocol == "reference":
        return []
    return [f"{here.protocol} protocol; the paper's numbers come from its published code, so compare with reference"]


def _scorer(here: Setting) -> list[str]:
    # A folder with the same classifier has the same name.
    if PurePath(here.scorer).name == PurePath(SCORER).name:
        return []
    return [f"scored by {here.scorer}, the paper by {SCORER}"]


def _count(number: int | None, of: str, paper: int) -> list[str]:
    if number == paper:
        return []
    return [f"{'an unknown number of' if number is None else f'{number:,}'} {of}, the paper {paper:,}"]


_TEST_PART = "WikiText-2's test part"


def _neutral(here: Setting) -> list[str]:
    match here.neutral:
        case "whole":
            return []
        case "cut":
            return [f"log-perplexity on the first windows of the text, the paper on all of {_TEST_PART}"]
        case "other":
            return [f"log-perplexity on a text that is not known to be {_TEST_PART}, by hub id or by digest"]
        case "built-in":
            return ["log-perplexity on built-in prose, the paper on WikiText-2"]


def _direction(here: Setting) -> list[str]:
    return [] if here.direction == "probe" else [f"direction by {here.direction}, the paper's by a probe"]


_GPT_4O = re.compile(r"(openai/)?gpt-4o(-\d{4}-\d{2}-\d{2})?", re.IGNORECASE)
"""The model's name, also with a router's prefix, and its dated versions; not its smaller variants."""


def _judge(here: Setting) -> list[str]:
    model = _GPT_4O.fullmatch(here.token_judge)
    return [] if model is not None else [f"toxic tokens judged by {here.token_judge}, in the paper by GPT-4o"]


def _training(here: Setting) -> list[str]:
    made = here.training
    if made is None:
        return ["how the tuned model was made is not known"]
    reasons = _count(made.pairs, "pairs for DPO", PAIRS)
    if made.trained != "full":
        reasons.append(f"DPO of {made.trained}, the paper of all weights")
    if made.kl_on != "pairs":
        reasons.append(f"KL on {made.kl_on}, the paper's on pairs")
    if here.recognised is not None:
        (paper,) = paper_values(table="10", model=here.recognised.model.name)
        if made.kl_weight != paper.value:
            reasons.append(f"λ = {made.kl_weight:g}, the paper's {paper.printed}")
    return reasons


UNLIKE: Mapping[Need, Callable[[Setting], list[str]]] = {
    "protocol": _protocol,
    "scorer": _scorer,
    "prompts": lambda here: _count(here.prompts, "prompts", PROMPTS),
    "learn": lambda here: _count(here.learn_prompts, "prompts for neuron means", PROMPTS),
    "passages": lambda here: _count(here.passages, "passages", PASSAGES),
    "neutral": _neutral,
    "direction": _direction,
    "judge": _judge,
    "training": _training,
}
"""Part of the setting → its differences from the paper's. Prompts, passages and pairs are compared by number only."""

MODEL_NAMES = tuple(model.name for model in MODELS)
"""The paper's models in its order."""
