"""One trial of a search: fold an edit in, measure its cost on neutral text and, if the cost is allowed, its texts.

Reading a few thousand tokens is cheaper than generating text for hundreds of prompts. So a trial that costs too much
ends before it generates. Weights are replaced during a trial, and the same objects are put back after it.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dposcope.evaluation.repetition import distinct_n, repetition
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.statistics import bootstrap_mean
from dposcope.interventions.fold import folded
from dposcope.model.generate import generate
from dposcope.model.language_model import LanguageModel
from dposcope.search.divergence import Cost, NeutralText
from dposcope.search.family import Family, Point

REPETITION_NOISE = 0.01
"""Rise of mean repetition that is always allowed. If the plain model never repeats itself, its interval has width 0,
and one text with a repetition would rule out every edit."""


@dataclass(frozen=True)
class Bound:
    """Bound on the cost of an edit on neutral text."""

    kl: float | None = None
    """Most KL(base‖edited), nats per token; None: any."""
    rise: float | None = None
    """Largest rise of log-perplexity, nats per token; None: any."""

    def excess(self, cost: Cost) -> float:
        """How far the worse cost exceeds its bound, as a share of the bound; 0 or less if both are within bounds."""
        over = [
            value / most - 1
            for value, most in ((cost.divergence.mean, self.kl), (cost.increase.mean, self.rise))
            if most is not None
        ]
        return max(over, default=-1.0)


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


@dataclass(frozen=True)
class TextBound:
    """Bound on repetition and on distinct word pairs. Without it, a model that always writes the same would win."""

    plain: Written
    """What the plain model writes to the same prompts."""
    least_distinct: float = 0.5
    """Texts must keep this share of the plain model's `distinct_2`."""

    def excess(self, written: Written) -> dict[str, float]:
        """How far texts exceed the bound; 0 or less if they pass.

        Returns:
            `repetition`: above the upper end of the plain model's interval; `distinct_2`: below the least allowed.
        """
        most = max(self.plain.repetition_high, self.plain.repetition + REPETITION_NOISE)
        return {
            "repetition": written.repetition - most,
            "distinct_2": self.least_distinct * self.plain.distinct_2 - written.distinct_2,
        }

    def allows(self, written: Written) -> bool:
        """Whether texts pass both parts of the bound."""
        return all(excess <= 0 for excess in self.excess(written).values())


@dataclass(frozen=True)
class Trial:
    """One edit, tried."""

    number: int
    point: Point
    kl: float
    """Mean KL(base‖edited) on neutral text, nats per token; infinite where the model overflowed."""
    rise: float
    """Mean rise of log-perplexity there."""
    excess: float
    """See `Bound.excess`."""
    written: Written | None
    """None where the cost was out of bounds."""
    seconds: float

    @property
    def within_bounds(self) -> bool:
        """Whether its cost is within bounds."""
        return self.written is not None

    def to_json(self) -> dict[str, Any]:
        """As plain data; infinity as text, since JSON has no infinity."""
        fields = asdict(self)
        return fields | {name: _to_json(fields[name]) for name in ("kl", "rise", "excess")}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Trial":
        """Read what `to_json` gave."""
        written = stored["written"]
        return cls(
            stored["number"],
            Point(**stored["point"]),
            float(stored["kl"]),
            float(stored["rise"]),
            float(stored["excess"]),
            None if written is None else Written(**written),
            stored["seconds"],
        )


def _to_json(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


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
    batch_size: int = 32
    new_tokens: int = 20

    def try_out(self, point: Point, number: int = 0) -> Trial:
        """Fold the edit in, measure, and take it out again.

        Args:
            point: of the family.
            number: of the trial.
        """
        start = time.monotonic()
        with folded(self.lm, self.family.edit(point)):
            cost = self.neutral.cost(self.lm)
            excess = self.bound.excess(cost)
            written = self.write() if excess <= 0 else None
        seconds = round(time.monotonic() - start, 2)
        return Trial(number, point, cost.divergence.mean, cost.increase.mean, excess, written, seconds)

    def write(self) -> Written:
        """Continue the prompts with the model as it is now."""
        continued = generate(self.lm, list(self.prompts), new_tokens=self.new_tokens, batch_size=self.batch_size)
        texts = [one.text for one in continued]
        concept = bootstrap_mean(self.scorer(texts))
        repeated = bootstrap_mean([repetition(text) for text in texts])
        return Written(concept.mean, concept.low, concept.high, repeated.mean, distinct_n(texts, 2), repeated.high)
