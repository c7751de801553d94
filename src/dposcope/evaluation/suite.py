"""Measure a condition, and compare conditions (SPEC section 5)."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from dposcope.artefacts import text_digest
from dposcope.data.corpus import Passages
from dposcope.errors import DposcopeError
from dposcope.evaluation.overlap import GENERATED_TOKENS, reference_pair, strict_pair, token_f1
from dposcope.evaluation.perplexity import WindowLosses, window_losses
from dposcope.evaluation.repetition import distinct_n, repetition, share_empty
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.statistics import (
    Difference,
    Estimate,
    Ratio,
    bootstrap_mean,
    bootstrap_ratio,
    paired_difference,
    paired_ratio,
)
from dposcope.interventions.assign import Assign
from dposcope.interventions.edited import EditedModel
from dposcope.interventions.gains import Gains
from dposcope.interventions.weights import OtherWeights
from dposcope.model.batches import encode
from dposcope.model.frames import Positions
from dposcope.model.generate import Continuation, Progress, generate
from dposcope.model.hooks import Intervention
from dposcope.model.language_model import LanguageModel
from dposcope.protocols import Protocol

BASE = "none"
"""The condition without any intervention, which every other is compared with."""

CONCEPT = "toxicity"
"""The default concept."""

PER_PROMPT = ("toxicity", "judge", "repetition", "empty")
"""Measures with one value per prompt."""


@dataclass(frozen=True, eq=False)
class Materials:
    """Data and scorers for measuring conditions."""

    prompts: tuple[str, ...]
    """Prompts that provoke the concept. Only the continuation is scored."""
    passages: Passages
    """Encyclopedic prompts with their true continuation, for F1."""
    neutral: str
    """Text for log-perplexity."""
    scorer: Scorer
    judge: Scorer | None = None
    """An independent second scorer, to detect an edit that only exploits the first."""
    protocol: Protocol = "strict"
    max_windows: int | None = None
    skip_windows: int = 0
    spread_windows: bool = False
    """Whether the windows are spread over the text, instead of its first ones."""
    batch_size: int = 32
    concept: str = CONCEPT
    """Name of the concept in reports. The measure's key is always `toxicity`."""

    @cached_property
    def digests(self) -> dict[str, str]:
        """Of each text that is read: what a measurement depends on."""
        return {
            "prompts": text_digest(*self.prompts),
            "passages": text_digest(*self.passages.prompts, *self.passages.golds),
            "neutral": text_digest(self.neutral),
        }


@dataclass(frozen=True, eq=False)
class Outcome:
    """Measurements of one condition, item by item."""

    continuations: list[str]
    """One per prompt."""
    per_prompt: dict[str, np.ndarray]
    """`toxicity`, `repetition`, `empty` and, with a judge, `judge`: `[prompts]`, float64."""
    f1: np.ndarray
    """`[passages]`."""
    losses: WindowLosses

    def to_json(self) -> dict[str, Any]:
        """As plain data. Nothing is lost: Python writes a float so that it reads back the same."""
        return {
            "continuations": self.continuations,
            "per_prompt": {name: values.tolist() for name, values in self.per_prompt.items()},
            "f1": self.f1.tolist(),
            "window_nll": self.losses.nll.tolist(),
            "window_tokens": self.losses.tokens.tolist(),
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Outcome":
        """Read what `to_json` wrote."""
        return cls(
            list(stored["continuations"]),
            {name: np.array(values, dtype=np.float64) for name, values in stored["per_prompt"].items()},
            np.array(stored["f1"], dtype=np.float64),
            WindowLosses(
                np.array(stored["window_nll"], dtype=np.float64), np.array(stored["window_tokens"], dtype=np.int64)
            ),
        )


def measure(
    lm: LanguageModel,
    intervention: Intervention | None,
    materials: Materials,
    *,
    progress: Progress | None = None,
) -> Outcome:
    """Measure one condition: toxicity, judge, repetition, F1 and log-perplexity, each item by item.

    Reference protocol: prompts are cut to their first 32 tokens, F1 includes the prompt, and the intervention acts only
    at position 0 of each perplexity window, as in the published code (SPEC sections 4 and 5).

    Args:
        lm: the model.
        intervention: on the model; None for the plain model. `OtherWeights` and `EditedModel` are measured as models
            of their own.
        materials: data and scorers.
        progress: called with (done, total) over all the work.
    """
    if isinstance(intervention, OtherWeights | EditedModel):
        with intervention.second_model(lm) as other:
            return measure(other, None, materials, progress=progress)
    steps = _Steps(len(materials.prompts) + len(materials.passages), materials.max_windows, progress)
    written = _continue(lm, intervention, materials, materials.prompts, 256, steps)
    texts = [continuation.text for continuation in written]
    per_prompt = {
        "toxicity": materials.scorer(texts),
        "repetition": np.array([repetition(text) for text in texts]),
        "empty": np.array([share_empty([text]) for text in texts]),
    }
    if materials.judge is not None:
        per_prompt["judge"] = materials.judge(texts)
    f1 = _overlap(lm, _continue(lm, intervention, materials, materials.passages.prompts, 64, steps), materials)
    with _applied(lm, _for_perplexity(intervention, materials.protocol)):
        losses = window_losses(
            lm,
            materials.neutral,
            protocol=materials.protocol,
            skip_windows=materials.skip_windows,
            max_windows=materials.max_windows,
            spread=materials.spread_windows,
            progress=steps.windows,
        )
    return Outcome(texts, per_prompt, f1, losses)


def _continue(
    lm: LanguageModel,
    intervention: Intervention | None,
    materials: Materials,
    prompts: tuple[str, ...],
    strict_tokens: int,
    steps: "_Steps",
) -> list[Continuation]:
    strict = materials.protocol == "strict"
    with _applied(lm, intervention):
        written = generate(
            lm,
            prompts,
            new_tokens=GENERATED_TOKENS,
            max_prompt_tokens=strict_tokens if strict else 32,
            keep="end" if strict else "start",
            batch_size=materials.batch_size,
            progress=steps.texts,
        )
    steps.finished(len(prompts))
    return written


def _overlap(lm: LanguageModel, written: list[Continuation], materials: Materials) -> np.ndarray:
    special = lm.special_ids
    scores: list[float] = []
    for continuation, gold_text in zip(written, materials.passages.golds, strict=True):
        gold = [token for token in encode(lm, [gold_text])[0] if token not in special]
        pair = (
            strict_pair(continuation.ids, gold)
            if materials.protocol == "strict"
            else reference_pair(continuation.prompt_ids, continuation.ids, gold)
        )
        scores.append(token_f1(pair.predicted, pair.gold, special_ids=special))
    return np.array(scores)


def _for_perplexity(intervention: Intervention | None, protocol: Protocol) -> Intervention | None:
    if protocol == "reference" and isinstance(intervention, Assign | Gains):
        return replace(intervention, positions=Positions.FIRST)
    return intervention


def _applied(lm: LanguageModel, intervention: Intervention | None) -> Any:
    return nullcontext() if intervention is None else intervention.on(lm)


class _Steps:
    """Combines the progress of all parts of one measurement."""

    def __init__(self, texts: int, windows: int | None, progress: Progress | None) -> None:
        self._before, self._texts, self._windows, self._progress = 0, texts, windows, progress

    def texts(self, done: int, _total: int) -> None:
        if self._progress is not None:
            self._progress(self._before + done, self._texts + (self._windows or 1))

    def finished(self, count: int) -> None:
        self._before += count

    def windows(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(self._before + done, self._texts + total)


@dataclass(frozen=True)
class Comparison:
    """One condition against `none`, paired on the same items."""

    differences: dict[str, Difference]
    """Measure → this condition minus `none`."""
    toxicity_ratio: Ratio | None
    """Mean toxicity divided by that of `none`; None if the latter is 0 in some resample."""


@dataclass(frozen=True)
class Scores:
    """Means with intervals of every condition, and their paired comparisons with `none`."""

    protocol: str
    model: str
    conditions: dict[str, dict[str, Estimate]]
    against_none: dict[str, Comparison]
    distinct_2: dict[str, float]
    """Distinct over total word 2-grams of all continuations together."""
    about: dict[str, Any] = field(default_factory=dict[str, Any])
    concept: str = CONCEPT
    """Name of the concept in reports; the measure's key is always `toxicity`."""
    fingerprint: str = ""
    """Fingerprint of the model; names may be ambiguous."""

    def to_json(self) -> dict[str, Any]:
        """The content of `scores.json` (SPEC section 8), with comparisons; `concept` only if it is not toxicity."""
        return {
            **({} if self.concept == CONCEPT else {"concept": self.concept}),
            "protocol": self.protocol,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "conditions": {
                name: {measure: estimate.to_dict() for measure, estimate in measures.items()}
                for name, measures in self.conditions.items()
            },
            "against_none": {
                name: {
                    "difference": {measure: value.to_dict() for measure, value in comparison.differences.items()},
                    "toxicity_ratio": None
                    if comparison.toxicity_ratio is None
                    else comparison.toxicity_ratio.to_dict(),
                }
                for name, comparison in self.against_none.items()
            },
            "distinct_2": self.distinct_2,
            "about": self.about,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Scores":
        """Read what `to_json` wrote."""
        return cls(
            stored["protocol"],
            stored["model"],
            {
                name: {measure: Estimate(**value) for measure, value in measures.items()}
                for name, measures in stored["conditions"].items()
            },
            {
                name: Comparison(
                    {measure: Difference(**value) for measure, value in comparison["difference"].items()},
                    None if comparison["toxicity_ratio"] is None else Ratio(**comparison["toxicity_ratio"]),
                )
                for name, comparison in stored["against_none"].items()
            },
            dict(stored["distinct_2"]),
            dict(stored["about"]),
            stored.get("concept", CONCEPT),
            stored["fingerprint"],
        )


def summarise(
    outcomes: Mapping[str, Outcome],
    *,
    protocol: str,
    model: str,
    about: Mapping[str, Any] | None = None,
    concept: str = CONCEPT,
    fingerprint: str = "",
) -> Scores:
    """Means, intervals and paired comparisons.

    Args:
        outcomes: condition → what was measured; `none` among them.
        protocol: named in the result.
        model: named in the result.
        about: settings to store with the numbers.
        concept: what the scorer measured.
        fingerprint: of the model.
    """
    base = outcomes[BASE]
    return Scores(
        protocol,
        model,
        {name: _estimates(outcome) for name, outcome in outcomes.items()},
        {name: _compare(outcome, base) for name, outcome in outcomes.items() if name != BASE},
        {name: distinct_n(outcome.continuations, 2) for name, outcome in outcomes.items()},
        dict(about or {}),
        concept,
        fingerprint,
    )


def _estimates(outcome: Outcome) -> dict[str, Estimate]:
    estimates = {name: bootstrap_mean(outcome.per_prompt[name]) for name in PER_PROMPT if name in outcome.per_prompt}
    estimates["f1"] = bootstrap_mean(outcome.f1)
    estimates["logppl"] = bootstrap_ratio(outcome.losses.nll, outcome.losses.tokens)
    return estimates


def _compare(outcome: Outcome, base: Outcome) -> Comparison:
    differences = {
        name: paired_difference(outcome.per_prompt[name], base.per_prompt[name])
        for name in PER_PROMPT
        if name in outcome.per_prompt
    }
    differences["f1"] = paired_difference(outcome.f1, base.f1)
    differences["logppl"] = paired_difference(outcome.losses.nll, base.losses.nll, denominators=base.losses.tokens)
    try:
        ratio = paired_ratio(outcome.per_prompt["toxicity"], base.per_prompt["toxicity"])
    except DposcopeError:
        ratio = None  # the base's mean is 0 in some resample
    return Comparison(differences, ratio)
