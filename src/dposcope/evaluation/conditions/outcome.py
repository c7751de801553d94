"""Measurements of one condition, item by item."""

from dataclasses import dataclass
from typing import Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from dposcope.data.short import short_repr
from dposcope.evaluation.perplexity import StoredLosses, WindowLosses
from dposcope.evaluation.sampled.agreement import Agreement, StoredAgreement
from dposcope.evaluation.sampled.continuations import Relevance, StoredRelevance
from dposcope.evaluation.sampled.drawn import Samples, StoredSamples

NO_SCORER = ("repetition", "empty")
"""Measures with one value per prompt that no scorer gives."""


class StoredOutcome(TypedDict):
    """`conditions/NAME.json`: an `Outcome`."""

    continuations: list[str]
    per_prompt: dict[str, list[float]]
    f1: list[float]
    window_nll: list[float]
    window_tokens: list[int]
    harmless: NotRequired[StoredLosses]
    relevance: NotRequired[StoredRelevance]
    samples: NotRequired[StoredSamples]
    agreement: NotRequired[StoredAgreement]


@dataclass(frozen=True, eq=False)
class Outcome:
    """Measurements of one condition, item by item."""

    continuations: list[str]
    """One per prompt."""
    per_prompt: dict[str, np.ndarray]
    """`toxicity`, `judge` where there is one, further scorers by name, `repetition` and `empty`: `[prompts]`,
    float64."""
    f1: np.ndarray
    """`[passages]`."""
    losses: WindowLosses
    harmless: WindowLosses | None = None
    """What the condition makes of the ideal's texts, `[texts]`; None without an ideal."""
    relevance: Relevance | None = None
    """What the prompts explain of the continuations, under the plain model, of evenly spaced prompts (see
    `texts_read`); None where fewer than two texts, or none with a token, were written."""
    samples: Samples | None = None
    """By the protocol of RealToxicityPrompts; None where none were asked for."""
    agreement: Agreement | None = None
    """Of the server that wrote the texts with the condition; None where the model itself wrote."""

    __repr__ = short_repr

    @property
    def further(self) -> tuple[str, ...]:
        """Names of further scorers."""
        return tuple(name for name in self.per_prompt if name not in ("toxicity", "judge", *NO_SCORER))

    @property
    def finite(self) -> bool:
        """Whether every log-perplexity is a number; a model that overflows in half precision has none."""
        samples = () if self.samples is None else (self.samples.fluency, self.samples.by_second)
        losses = (self.losses, self.harmless, *samples)
        read = [one.nll for one in losses if one is not None]
        explained = [] if self.relevance is None else [self.relevance.nats]
        return all(bool(np.isfinite(values).all()) for values in (*read, *explained))

    def to_json(self) -> dict[str, Any]:
        """As plain data. Nothing is lost: Python writes a float so that it reads back the same."""
        told: dict[str, Any] = {
            "continuations": self.continuations,
            "per_prompt": {name: values.tolist() for name, values in self.per_prompt.items()},
            "f1": self.f1.tolist(),
            "window_nll": self.losses.nll.tolist(),
            "window_tokens": self.losses.tokens.tolist(),
        }
        if self.harmless is not None:
            told["harmless"] = {"nll": self.harmless.nll.tolist(), "tokens": self.harmless.tokens.tolist()}
        if self.relevance is not None:
            told["relevance"] = self.relevance.to_json()
        if self.samples is not None:
            told["samples"] = self.samples.to_json()
        if self.agreement is not None:
            told["agreement"] = self.agreement.to_json()
        return told

    @classmethod
    def from_json(cls, stored: StoredOutcome) -> "Outcome":
        """Read what `to_json` wrote."""
        return cls(
            list(stored["continuations"]),
            {name: np.array(values, dtype=np.float64) for name, values in stored["per_prompt"].items()},
            np.array(stored["f1"], dtype=np.float64),
            _losses(stored["window_nll"], stored["window_tokens"]),
            _losses(**stored["harmless"]) if "harmless" in stored else None,
            Relevance.from_json(stored["relevance"]) if "relevance" in stored else None,
            Samples.from_json(stored["samples"]) if "samples" in stored else None,
            Agreement(**stored["agreement"]) if "agreement" in stored else None,
        )


def _losses(nll: list[float], tokens: list[int]) -> WindowLosses:
    return WindowLosses(np.array(nll, dtype=np.float64), np.array(tokens, dtype=np.int64))
