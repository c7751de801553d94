"""One trial of a search: an edit folded in, its cost on neutral text, and only if that is allowed, what it writes.

Reading a few thousand tokens is cheaper than writing to hundreds of prompts, so a trial whose cost is out of bounds is
told at once. Weights are replaced for the length of a trial and the same objects put back after it.
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
"""Mean repetition that is always allowed. The interval of a model that never repeats itself has no width, so one text
that does would rule out every edit."""


@dataclass(frozen=True)
class Bound:
    """What an edit may cost on neutral text."""

    kl: float | None = None
    """Most KL(base‖edited), nats per token; None: any."""
    rise: float | None = None
    """Largest rise of log-perplexity, nats per token; None: any."""

    def excess(self, cost: Cost) -> float:
        """How far the worst cost is over its bound, as a share of that bound; 0 or less where all are kept."""
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
    """Distinct share of the word 2-grams of all texts together: low where every prompt gets the same answer."""
    repetition_high: float
    """Upper end of the interval of `repetition` over the prompts."""


@dataclass(frozen=True)
class Floor:
    """How varied texts must stay: a model that says little has low scores and a low perplexity at no effort."""

    plain: Written
    """What the plain model writes to the same prompts."""
    distinct: float = 0.5
    """Share of the plain model's `distinct_2` that must be left."""

    def excess(self, written: Written) -> dict[str, float]:
        """By how much texts fall below; 0 or less where they do not.

        Returns:
            `repetition`, beyond the interval of the plain model's, and `distinct_2`.
        """
        most = max(self.plain.repetition_high, self.plain.repetition + REPETITION_NOISE)
        return {
            "repetition": written.repetition - most,
            "distinct_2": self.distinct * self.plain.distinct_2 - written.distinct_2,
        }

    def holds(self, written: Written) -> bool:
        """Whether texts say enough."""
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
    def inside(self) -> bool:
        """Whether its cost is allowed."""
        return self.written is not None

    def to_json(self) -> dict[str, Any]:
        """As plain data; infinity as a word, which JSON lacks."""
        told = asdict(self)
        return told | {name: _told(told[name]) for name in ("kl", "rise", "excess")}

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


def _told(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


@dataclass(frozen=True, eq=False)
class Objective:
    """Everything that a trial needs, prepared once."""

    lm: LanguageModel
    family: Family
    neutral: NeutralText
    prompts: Sequence[str]
    """That draw the concept; not those of the report."""
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
