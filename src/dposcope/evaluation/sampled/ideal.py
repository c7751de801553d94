"""The ideal: what the plain model writes given that it is harmless, the limit of what an edit can be.

It is drawn by rejection: samples of the plain model, without those that count as toxic.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from dposcope.artefacts import text_digest
from dposcope.data.short import short_repr
from dposcope.evaluation.perplexity import WindowLosses
from dposcope.evaluation.sampled.continuations import Relevance, StoredRelevance, relevance
from dposcope.evaluation.sampled.real_toxicity import harmless_places, sample_texts
from dposcope.evaluation.scorer import Scorer
from dposcope.model.engine.served import Writer
from dposcope.model.generate import Continuation, Progress, generate
from dposcope.model.language_model import LanguageModel

IDEAL: Final = "ideal"
"""The row of the ideal among conditions. It is measured on samples, so it has fewer measures than they."""

LEAST_TEXTS: Final = 24
MOST_TEXTS: Final = 64
"""Bounds of `texts_read`."""


def texts_read(prompts: int) -> int:
    """How many texts are drawn for the ideal, and read of each condition for their relevance: of half of the prompts,
    but of at least 24 (or all, if there are fewer) and at most 64.

    Of every condition two readings are for relevance and one is of the ideal; the three cost about as much as writing
    two texts, and are to stay below a fifth of an evaluation.
    """
    return min(prompts, max(LEAST_TEXTS, min(MOST_TEXTS, prompts // 2)))


def evenly(count: int, most: int) -> list[int]:
    """At most `most` of so many places, evenly spaced."""
    return [place * count // most for place in range(most)] if count > most else list(range(count))


class StoredContinuation(TypedDict):
    """A continuation in a file, with the number of its prompt."""

    row: int
    prompt_ids: list[int]
    ids: list[int]
    text: str


class StoredIdeal(TypedDict):
    """`ideal.json`: an `Ideal`."""

    drawn: int
    texts: list[StoredContinuation]


MAYBE_IDEAL: Final[TypeAdapter[StoredIdeal | None]] = TypeAdapter(StoredIdeal | None)
"""Null where no sample was harmless."""


@dataclass(frozen=True, eq=False)
class Ideal:
    """Harmless samples of the plain model."""

    written: tuple[Continuation, ...]
    """At least one, each with a token."""
    rows: tuple[int, ...]
    """The prompt of each, from 0; one text a prompt."""
    drawn: int
    """Samples before the toxic ones were left out."""

    __repr__ = short_repr

    @property
    def texts(self) -> list[str]:
        """The samples."""
        return [one.text for one in self.written]

    @cached_property
    def digest(self) -> str:
        """What a measurement on these samples depends on."""
        return text_digest(json.dumps(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "drawn": self.drawn,
            "texts": [
                {"row": row, "prompt_ids": one.prompt_ids, "ids": one.ids, "text": one.text}
                for row, one in zip(self.rows, self.written, strict=True)
            ],
        }

    @classmethod
    def from_json(cls, stored: StoredIdeal) -> "Ideal":
        """Read what `to_json` wrote."""
        texts = stored["texts"]
        return cls(
            tuple(Continuation(one["prompt_ids"], one["ids"], one["text"]) for one in texts),
            tuple(one["row"] for one in texts),
            stored["drawn"],
        )


def draw_ideal(
    lm: LanguageModel,
    prompts: Sequence[str],
    scorer: Scorer,
    *,
    most: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
    write: Writer = generate,
) -> Ideal | None:
    """Sample the plain model once a prompt (temperature 1, top-p 0.9, 20 tokens), and keep what is not toxic.

    Args:
        lm: the plain model.
        prompts: what it continues.
        scorer: says what counts as toxic: a score of 0.5 or more.
        most: of the prompts that are sampled, evenly spaced. Default: see `texts_read`.
        seed: of the draws, see `sample_texts`.
        batch_size: samples at a time.
        progress: called with samples written.
        write: see `sample_texts`.

    Returns:
        The ideal; None where no sample is harmless.
    """
    rows = evenly(len(prompts), texts_read(len(prompts)) if most is None else most)
    asked = [prompts[row] for row in rows]
    written = sample_texts(lm, asked, samples=1, seed=seed, batch_size=batch_size, progress=progress, write=write)
    kept = harmless_places(written, scorer([one.text for one in written]))
    if not kept:
        return None
    return Ideal(tuple(written[place] for place in kept), tuple(rows[place] for place in kept), len(written))


class StoredIdealOutcome(TypedDict):
    """`conditions/ideal.json`: an `IdealOutcome`."""

    per_text: dict[str, list[float]]
    relevance: StoredRelevance | None


@dataclass(frozen=True, eq=False)
class IdealOutcome:
    """Measurements of the ideal, text by text."""

    per_text: dict[str, np.ndarray]
    """Scorer → scores, `[texts]`, float64."""
    relevance: Relevance | None
    """None where there is one text only."""

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "per_text": {name: values.tolist() for name, values in self.per_text.items()},
            "relevance": None if self.relevance is None else self.relevance.to_json(),
        }

    @classmethod
    def from_json(cls, stored: StoredIdealOutcome) -> "IdealOutcome":
        """Read what `to_json` wrote."""
        found = stored["relevance"]
        return cls(
            {name: np.array(values, dtype=np.float64) for name, values in stored["per_text"].items()},
            None if found is None else Relevance.from_json(found),
        )


def measure_ideal(
    lm: LanguageModel,
    ideal: Ideal,
    scorers: Mapping[str, Scorer],
    *,
    own: WindowLosses | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> IdealOutcome:
    """Score the ideal's texts, and read them for their relevance.

    Args:
        lm: the plain model.
        ideal: its harmless samples.
        scorers: name of the measure → scorer.
        own: the plain model's losses on these texts, where they were read before.
        batch_size: texts at a time.
        progress: called with texts read.
    """
    scores = {name: scorer(ideal.texts) for name, scorer in scorers.items()}
    if len(ideal.written) < 2:
        return IdealOutcome(scores, None)
    return IdealOutcome(scores, relevance(lm, ideal.written, own=own, batch_size=batch_size, progress=progress))
