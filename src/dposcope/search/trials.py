"""One trial of a search: fold an edit in, measure its cost on neutral text and, if the cost is allowed, its texts.

Reading a few thousand tokens is cheaper than generating text for hundreds of prompts. So a trial that costs too much
ends before it generates. Weights are replaced during a trial, and the same objects are put back after it.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

from pydantic import BeforeValidator

from dposcope.evaluation.repetition import distinct_n, repetition
from dposcope.evaluation.sampled.continuations import relevance
from dposcope.evaluation.sampled.ideal import evenly, texts_read
from dposcope.evaluation.sampled.phrases import risen_phrases
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.statistics.comparisons import bootstrap_mean
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import in_effect
from dposcope.model.generate import Continuation, generate
from dposcope.model.language_model import LanguageModel
from dposcope.search.divergence import Cost, NeutralText
from dposcope.search.family import Family, Point
from dposcope.search.harmless_text import HarmlessText

REPETITION_NOISE = 0.01
"""Rise of mean repetition that is always allowed. If the plain model never repeats itself, its interval has width 0,
and one text with a repetition would rule out every edit."""


@dataclass(frozen=True)
class Bound:
    """Bounds on the costs of an edit."""

    kl: float = math.inf
    """Most KL(base‖edited), nats per token."""
    rise: float = math.inf
    """Largest rise of log-perplexity, nats per token."""
    harmless: float = math.inf
    """Largest rise of log-perplexity on the plain model's own harmless texts, nats per token."""

    def excess(self, cost: Cost, harmless: float | None = None) -> float:
        """How far the worst cost exceeds its bound, as a share of the bound; 0 or less if all are within bounds. What
        is above a bound of 0 exceeds it infinitely.

        Args:
            cost: on neutral text.
            harmless: rise on harmless texts; None: not measured.
        """
        measured = (
            (cost.divergence.mean, self.kl),
            (cost.increase.mean, self.rise),
            (harmless, self.harmless),
        )
        over = [_over(value, most) for value, most in measured if most < math.inf and value is not None]
        return max(over, default=-1.0)


def _over(cost: float, most: float) -> float:
    if most <= 0:
        return math.inf if cost > most else 0.0
    return cost / most - 1


@dataclass(frozen=True)
class Written:
    """What a model wrote to the search prompts."""

    concept: float
    """Mean score."""
    concept_low: float
    concept_high: float
    repetition: float
    """Mean share of repeated word 2-grams in a text."""
    distinct_2: float
    """Distinct share of the word 2-grams of all texts together: low if every prompt gets the same continuation."""
    repetition_high: float
    """Upper end of the interval of `repetition` over the prompts."""
    phrase: str = ""
    """The phrase of 2 to 4 words whose share of texts rose most over the plain model's; empty for the plain model."""
    phrase_rise: float = 0.0
    """How much that share rose."""
    relevance: float | None = None
    """Nats per token that the prompts explain of the texts, under the plain model; None: not measured."""
    relevance_low: float | None = None
    """Lower end of its interval over the texts."""


@dataclass(frozen=True)
class TextBound:
    """Bound on repetition, distinct word pairs, the phrase that rose most and relevance.

    Without it, a model that always writes the same would win, or one that has learned to refuse.
    """

    plain: Written
    """What the plain model writes to the same prompts."""
    least_distinct: float = 0.5
    """Texts must keep this share of the plain model's `distinct_2`."""
    most_phrase_rise: float = 1.0
    """No phrase may stand in more texts than in the plain model's by this share of all texts."""
    least_relevance: float = 0.0
    """Texts must keep this share of the plain model's `relevance`."""

    def excess(self, written: Written) -> dict[str, float]:
        """How far texts exceed the bound; 0 or less if they pass.

        Returns:
            `repetition`: above the upper end of the plain model's interval; `distinct_2`: below the least allowed;
            `phrase`: rise of the phrase that rose most above the largest allowed; `relevance`: below the least
            allowed, 0 where it was not measured, or where that of the plain model cannot be told from 0.
        """
        most = max(self.plain.repetition_high, self.plain.repetition + REPETITION_NOISE)
        return {
            "repetition": written.repetition - most,
            "distinct_2": self.least_distinct * self.plain.distinct_2 - written.distinct_2,
            "phrase": written.phrase_rise - self.most_phrase_rise,
            "relevance": self._lacking(written),
        }

    def _lacking(self, written: Written) -> float:
        plain = self.plain
        if written.relevance is None or plain.relevance is None or not (plain.relevance_low or 0) > 0:
            return 0.0
        return self.least_relevance * plain.relevance - written.relevance

    def allows(self, written: Written) -> bool:
        """Whether texts pass all parts of the bound."""
        return all(excess <= 0 for excess in self.excess(written).values())


def _number(stored: Any) -> Any:
    """Infinity is a text in a file, since JSON has no infinity."""
    return float(stored) if stored in ("inf", "-inf", "nan") else stored


_Number = Annotated[float, BeforeValidator(_number)]


@dataclass(frozen=True)
class Trial:
    """One edit, tried."""

    number: int
    point: Point
    kl: _Number
    """Mean KL(base‖edited) on neutral text, nats per token; infinite where the model overflowed."""
    rise: _Number
    """Mean rise of log-perplexity there."""
    harmless: _Number | None
    """Mean rise of log-perplexity on harmless texts, nats per token; None where it was not measured, as the search has
    none, or the cost on neutral text is out of bounds."""
    excess: _Number
    """See `Bound.excess`."""
    written: Written | None
    """None where the cost was out of bounds."""
    seconds: float

    @property
    def within_bounds(self) -> bool:
        """Whether its cost is within bounds."""
        return self.written is not None

    def to_json(self) -> dict[str, Any]:
        """As plain data; infinity as text."""
        fields = asdict(self)
        return fields | {name: _to_json(fields[name]) for name in ("kl", "rise", "harmless", "excess")}


def _to_json(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


@dataclass(frozen=True, eq=False)
class Objective:
    """Everything that a trial needs, prepared once."""

    lm: LanguageModel
    family: Family
    neutral: NeutralText
    prompts: Sequence[str]
    """Prompts that provoke the concept; not the report's."""
    scorer: Scorer
    bound: Bound
    batch_size: int | None = None
    new_tokens: int = 20
    harmless: HarmlessText | None = None
    """The plain model's own harmless texts to the prompts; None: that cost is not measured."""
    plain_texts: Sequence[str] = ()
    """What the plain model writes to the prompts, to compare phrases with; empty: no phrase is measured."""
    with_relevance: bool = False
    """Whether the plain model reads texts for their relevance, of at most 64 prompts."""

    def try_out(self, point: Point, number: int = 0) -> Trial:
        """Fold the edit in, measure, and take it out again.

        Args:
            point: of the family.
            number: of the trial.
        """
        start = time.monotonic()
        edit, written = self.family.edit(point), None
        with in_effect(self.lm, edit):
            cost = self.neutral.cost(self.lm)
            excess, harmless = self.bound.excess(cost), None
            if excess <= 0 and self.harmless is not None:
                harmless = self.harmless.rise(self.lm).mean
                excess = self.bound.excess(cost, harmless)
        if excess <= 0:
            written = self.write(edit)
        seconds = round(time.monotonic() - start, 2)
        return Trial(number, point, cost.divergence.mean, cost.increase.mean, harmless, excess, written, seconds)

    def continued(self) -> list[Continuation]:
        """What the model as it is now writes to the prompts."""
        return generate(self.lm, list(self.prompts), new_tokens=self.new_tokens, batch_size=self.batch_size)

    def write(self, edit: Edit) -> Written:
        """Continue the prompts with an edit folded in, take it out again, and measure the texts."""
        with in_effect(self.lm, edit):
            written = self.continued()
        return self.measured(written)

    def measured(self, continued: Sequence[Continuation]) -> Written:
        """Measures of texts to the prompts. The model is the plain one, which reads them."""
        texts = [one.text for one in continued]
        concept = bootstrap_mean(self.scorer(texts))
        repeated = bootstrap_mean([repetition(text) for text in texts])
        written = Written(concept.mean, concept.low, concept.high, repeated.mean, distinct_n(texts, 2), repeated.high)
        for phrase in risen_phrases(texts, self.plain_texts, most=1) if self.plain_texts else ():
            written = replace(written, phrase=phrase.words, phrase_rise=phrase.rise.mean)
        return self._with_relevance(written, continued) if self.with_relevance else written

    def _with_relevance(self, written: Written, continued: Sequence[Continuation]) -> Written:
        read = [continued[row] for row in evenly(len(continued), texts_read(len(continued)))]
        found = relevance(self.lm, read, batch_size=self.batch_size)
        if not found.measured:  # no text has a token, so its prompt explains none
            return replace(written, relevance=0.0, relevance_low=0.0)
        return replace(written, relevance=found.estimate.mean, relevance_low=found.estimate.low)
