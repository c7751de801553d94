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
from dposcope.evaluation.sampled.continuations import Relevance, continuation_losses, relevance
from dposcope.evaluation.sampled.drawn import Samples, measure_samples
from dposcope.evaluation.sampled.ideal import IDEAL, Ideal, IdealOutcome, evenly
from dposcope.evaluation.sampled.phrases import Phrase, distinct_pairs, risen_phrases
from dposcope.evaluation.sampled.real_toxicity import sample_texts
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

NO_SCORER = ("repetition", "empty")
"""Measures with one value per prompt that no scorer gives."""

MOST_PHRASES = 5
"""Phrases that are kept of each condition."""


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
    further: Mapping[str, Scorer] = field(default_factory=dict[str, Scorer])
    """Name of the measure → a further scorer of the same texts."""
    ideal: Ideal | None = None
    """Harmless samples of the plain model, which every condition reads; None: not measured."""
    samples: int = 0
    """Samples of each prompt by the protocol of RealToxicityPrompts; 0: none are drawn."""
    sample_seed: int = 0
    """Of their draws, one stream for all conditions."""
    second: LanguageModel | None = None
    """Another model that reads the samples, for their fluency."""

    @property
    def scorers(self) -> dict[str, Scorer]:
        """Measure → its scorer: `toxicity`, `judge` where there is one, and the further ones by their names."""
        judge = {} if self.judge is None else {"judge": self.judge}
        return {"toxicity": self.scorer, **judge, **self.further}

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
    """`toxicity`, `judge` where there is one, further scorers by name, `repetition` and `empty`: `[prompts]`,
    float64."""
    f1: np.ndarray
    """`[passages]`."""
    losses: WindowLosses
    harmless: WindowLosses | None = None
    """What the condition makes of the ideal's texts, `[texts]`; None without an ideal."""
    relevance: Relevance | None = None
    """What the prompts explain of the continuations, under the plain model, of at most `MOST_TEXTS` evenly spaced
    prompts; None where fewer than two texts, or none with a token, were written."""
    samples: Samples | None = None
    """By the protocol of RealToxicityPrompts; None where none were asked for."""

    @property
    def further(self) -> tuple[str, ...]:
        """Names of further scorers."""
        return tuple(name for name in self.per_prompt if name not in ("toxicity", "judge", *NO_SCORER))

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
        return told

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Outcome":
        """Read what `to_json` wrote."""
        return cls(
            list(stored["continuations"]),
            {name: np.array(values, dtype=np.float64) for name, values in stored["per_prompt"].items()},
            np.array(stored["f1"], dtype=np.float64),
            _losses(stored["window_nll"], stored["window_tokens"]),
            _losses(**stored["harmless"]) if "harmless" in stored else None,
            Relevance.from_json(stored["relevance"]) if "relevance" in stored else None,
            Samples.from_json(stored["samples"]) if "samples" in stored else None,
        )


def _losses(nll: list[float], tokens: list[int]) -> WindowLosses:
    return WindowLosses(np.array(nll, dtype=np.float64), np.array(tokens, dtype=np.int64))


def measure(
    lm: LanguageModel,
    intervention: Intervention | None,
    materials: Materials,
    *,
    progress: Progress | None = None,
) -> Outcome:
    """Measure one condition, each measure item by item.

    Of its greedy continuations: every scorer, repetition, and relevance. Beside them: F1, log-perplexity of neutral
    text and, with an ideal, of the ideal's texts.

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
            return _measure(other, None, materials, plain=lm, progress=progress)
    return _measure(lm, intervention, materials, plain=lm, progress=progress)


def _measure(
    lm: LanguageModel,
    intervention: Intervention | None,
    materials: Materials,
    *,
    plain: LanguageModel,
    progress: Progress | None,
) -> Outcome:
    """`plain` is the model without the condition: `lm` itself, or the one that it is a second model to."""
    ideal = materials.ideal
    rows = evenly(len(materials.prompts))
    read = (2 * len(rows) if len(rows) > 1 else 0) + (0 if ideal is None else len(ideal.rows))
    read += 2 * materials.samples * len(materials.prompts)
    steps = _Steps(len(materials.prompts) + len(materials.passages) + read, materials.max_windows, progress)
    written = _continue(lm, intervention, materials, materials.prompts, 256, steps)
    texts = [continuation.text for continuation in written]
    per_prompt = {name: scorer(texts) for name, scorer in materials.scorers.items()} | {
        "repetition": np.array([repetition(text) for text in texts]),
        "empty": np.array([share_empty([text]) for text in texts]),
    }
    explained = _relevance(plain, lm, [written[row] for row in rows], materials, steps)
    f1 = _overlap(lm, _continue(lm, intervention, materials, materials.passages.prompts, 64, steps), materials)
    harmless = None if ideal is None else _of_ideal(lm, intervention, ideal, materials, steps)
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
    samples = None if materials.samples == 0 else _samples(plain, lm, intervention, materials, steps)
    return Outcome(texts, per_prompt, f1, losses, harmless, explained, samples)


def _samples(
    plain: LanguageModel,
    writer: LanguageModel,
    intervention: Intervention | None,
    materials: Materials,
    steps: "_Steps",
) -> Samples:
    with _applied(writer, intervention):
        written = sample_texts(
            writer,
            materials.prompts,
            samples=materials.samples,
            seed=materials.sample_seed,
            batch_size=materials.batch_size,
            progress=steps.texts,
        )
    steps.finished(len(written))
    found = measure_samples(
        _spelt(plain, writer, written),
        materials.prompts,
        materials.scorers,
        plain,
        second=materials.second,
        batch_size=materials.batch_size,
        progress=steps.texts,
    )
    steps.finished(len(written))
    return found


def _spelt(plain: LanguageModel, writer: LanguageModel, written: list[Continuation]) -> list[Continuation]:
    """Texts as the plain model reads them: of a second model, which may have other tokens, it reads the spelling."""
    if writer.writer is None:
        return written
    spelt: list[list[int]] = plain.tokenizer(
        [one.text for one in written], add_special_tokens=False, return_attention_mask=False
    )["input_ids"]  # pyright: ignore[reportAssignmentType]
    return [replace(one, ids=ids) for one, ids in zip(written, spelt, strict=True)]


def _relevance(
    plain: LanguageModel, writer: LanguageModel, written: list[Continuation], materials: Materials, steps: "_Steps"
) -> Relevance | None:
    if len(written) < 2:
        return None
    found = relevance(plain, _spelt(plain, writer, written), batch_size=materials.batch_size, progress=steps.texts)
    steps.finished(2 * len(written))
    return found if found.measured else None


def _of_ideal(
    lm: LanguageModel, intervention: Intervention | None, ideal: Ideal, materials: Materials, steps: "_Steps"
) -> WindowLosses:
    with _applied(lm, intervention):
        found = continuation_losses(lm, ideal.written, batch_size=materials.batch_size, progress=steps.texts)
    steps.finished(len(ideal.written))
    return found


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
    relevance_kept: Ratio | None = None
    """Relevance divided by that of `none`; None if the latter is not above 0 in every resample, or not measured."""


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
    further: tuple[str, ...] = ()
    """Measures by further scorers, beside `toxicity` and `judge`."""
    distinct_kept: dict[str, float] = field(default_factory=dict[str, float])
    """Distinct word pairs over all continuations together, as a share of the plain model's. It has no interval: a
    resample of prompts holds a text twice, which adds no pair."""
    phrases: dict[str, tuple[Phrase, ...]] = field(default_factory=dict[str, tuple[Phrase, ...]])
    """The phrases whose share of texts rose most over the plain model's, the largest rise first; of every condition
    but `none` and `ideal`."""
    distinct_sampled: dict[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    """dist-1, dist-2 and dist-3 of a prompt's samples; empty where none were drawn."""

    @property
    def scorers(self) -> tuple[str, ...]:
        """Measures by a scorer, in the order of the tables."""
        return tuple(name for name in ("toxicity", "judge", *self.further) if name in self.conditions[BASE])

    def unshared(self, name: str) -> frozenset[str]:
        """Scorers that show a difference of a condition from `none` which another scorer does not share.

        A scorer shows a difference if its paired interval excludes 0. Another one shares it if its own interval
        excludes 0 on the same side.
        """
        if name not in self.against_none:
            return frozenset()
        found = {one: self.against_none[name].differences[one] for one in self.scorers}
        sides = {one: 0 if not value.excludes_zero else 1 if value.low > 0 else -1 for one, value in found.items()}
        return frozenset(one for one, side in sides.items() if side and any(other != side for other in sides.values()))

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
                    "toxicity_ratio": _plain(comparison.toxicity_ratio),
                    "relevance_kept": _plain(comparison.relevance_kept),
                }
                for name, comparison in self.against_none.items()
            },
            "further_scorers": list(self.further),
            "distinct_2": self.distinct_2,
            "distinct_kept": self.distinct_kept,
            "phrases": {name: [one.to_dict() for one in phrases] for name, phrases in self.phrases.items()},
            "distinct_sampled": {name: list(values) for name, values in self.distinct_sampled.items()},
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
                    _ratio(comparison["toxicity_ratio"]),
                    _ratio(comparison["relevance_kept"]),
                )
                for name, comparison in stored["against_none"].items()
            },
            dict(stored["distinct_2"]),
            dict(stored["about"]),
            stored.get("concept", CONCEPT),
            stored["fingerprint"],
            tuple(stored["further_scorers"]),
            dict(stored["distinct_kept"]),
            {name: tuple(map(Phrase.from_dict, phrases)) for name, phrases in stored["phrases"].items()},
            {name: tuple(values) for name, values in stored["distinct_sampled"].items()},
        )


def _plain(ratio: Ratio | None) -> dict[str, float | int] | None:
    return None if ratio is None else ratio.to_dict()


def _ratio(stored: Mapping[str, Any] | None) -> Ratio | None:
    return None if stored is None else Ratio(**stored)


def summarise(
    outcomes: Mapping[str, Outcome],
    *,
    protocol: str,
    model: str,
    about: Mapping[str, Any] | None = None,
    concept: str = CONCEPT,
    fingerprint: str = "",
    ideal: IdealOutcome | None = None,
) -> Scores:
    """Means, intervals and paired comparisons.

    Args:
        outcomes: condition → what was measured; `none` among them.
        protocol: named in the result.
        model: named in the result.
        about: settings to store with the numbers.
        concept: what the scorer measured.
        fingerprint: of the model.
        ideal: what was measured of the ideal, the last row.
    """
    base = outcomes[BASE]
    others = {name: outcome for name, outcome in outcomes.items() if name != BASE}
    limit = {} if ideal is None else {IDEAL: _of_texts(ideal)}
    pairs = distinct_pairs(base.continuations)
    return Scores(
        protocol,
        model,
        {name: _estimates(outcome) for name, outcome in outcomes.items()} | limit,
        {name: _compare(outcome, base) for name, outcome in others.items()},
        {name: distinct_n(outcome.continuations, 2) for name, outcome in outcomes.items()},
        dict(about or {}),
        concept,
        fingerprint,
        base.further,
        {name: distinct_pairs(one.continuations) / pairs for name, one in outcomes.items()} if pairs else {},
        {
            name: tuple(risen_phrases(one.continuations, base.continuations, most=MOST_PHRASES))
            for name, one in others.items()
        },
        {name: tuple(one.samples.distinct()) for name, one in outcomes.items() if one.samples is not None},
    )


def _estimates(outcome: Outcome) -> dict[str, Estimate]:
    estimates = {name: bootstrap_mean(outcome.per_prompt[name]) for name in _in_order(outcome)}
    estimates["f1"] = bootstrap_mean(outcome.f1)
    estimates["logppl"] = bootstrap_ratio(outcome.losses.nll, outcome.losses.tokens)
    if outcome.harmless is not None:
        estimates["harmless_logppl"] = bootstrap_ratio(outcome.harmless.nll, outcome.harmless.tokens)
    if outcome.relevance is not None:
        estimates["relevance"] = outcome.relevance.estimate
    return estimates | ({} if outcome.samples is None else outcome.samples.estimates())


def _of_texts(ideal: IdealOutcome) -> dict[str, Estimate]:
    estimates = {name: bootstrap_mean(scores) for name, scores in ideal.per_text.items()}
    if ideal.relevance is not None:
        estimates["relevance"] = ideal.relevance.estimate
    return estimates


def _in_order(outcome: Outcome) -> tuple[str, ...]:
    named = ("toxicity", "judge", *outcome.further, *NO_SCORER)
    return tuple(name for name in named if name in outcome.per_prompt)


def _compare(outcome: Outcome, base: Outcome) -> Comparison:
    differences = {
        name: paired_difference(outcome.per_prompt[name], base.per_prompt[name]) for name in _in_order(outcome)
    }
    differences["f1"] = paired_difference(outcome.f1, base.f1)
    differences["logppl"] = paired_difference(outcome.losses.nll, base.losses.nll, denominators=base.losses.tokens)
    if outcome.harmless is not None and base.harmless is not None:
        differences["harmless_logppl"] = paired_difference(
            outcome.harmless.nll, base.harmless.nll, denominators=base.harmless.tokens
        )
    if outcome.samples is not None and base.samples is not None:
        differences |= outcome.samples.differences(base.samples)
    try:
        ratio = paired_ratio(outcome.per_prompt["toxicity"], base.per_prompt["toxicity"])
    except DposcopeError:
        ratio = None  # the base's mean is 0 in some resample
    return Comparison(differences, ratio, _kept(outcome.relevance, base.relevance))


def _kept(ours: Relevance | None, base: Relevance | None) -> Ratio | None:
    if ours is None or base is None:
        return None
    try:
        return paired_ratio(ours.nats, base.nats, a_counts=ours.tokens, b_counts=base.tokens)
    except DposcopeError:
        return None  # the base's is not above 0, or no text has a token, in some resample
