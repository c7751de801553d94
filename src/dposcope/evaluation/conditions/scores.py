"""Compare the conditions of a run: means with intervals, and each condition against none."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NotRequired

import numpy as np
from typing_extensions import TypedDict

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError, plural
from dposcope.evaluation.conditions.materials import CONCEPT
from dposcope.evaluation.conditions.outcome import NO_SCORER, Outcome
from dposcope.evaluation.numbers import fixed
from dposcope.evaluation.repetition import distinct_n
from dposcope.evaluation.sampled.continuations import Relevance
from dposcope.evaluation.sampled.ideal import IDEAL, IdealOutcome
from dposcope.evaluation.sampled.phrases import Phrase, StoredPhrase, distinct_pairs, risen_phrases
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, bootstrap_ratio, paired_difference, paired_ratio
from dposcope.evaluation.statistics.intervals import (
    Difference,
    Estimate,
    Ratio,
    StoredDifference,
    StoredEstimate,
    StoredRatio,
)
from dposcope.evaluation.statistics.significance import holm

BASE = "none"
"""The condition without any intervention, which every other is compared with."""

HELD_OUT = "held_out"
"""In `Scores.about`: False where the prompts are those that an edit was made from."""

MOST_PHRASES = 5
"""Phrases that are kept of each condition."""

LEAST_BELOW_CHANCE = 0.5
"""Nats per token: a model whose log-perplexity is not this far below that of a guess among all tokens has learned no
text. Every trained language model is several nats below, a random one is at it or above."""


class StoredComparison(TypedDict):
    """A `Comparison` in a file."""

    difference: dict[str, StoredDifference]
    toxicity_ratio: StoredRatio | None
    relevance_kept: StoredRatio | None


class StoredScores(TypedDict):
    """`scores.json`."""

    concept: NotRequired[str]
    protocol: str
    model: str
    fingerprint: str
    conditions: dict[str, dict[str, StoredEstimate]]
    against_none: dict[str, StoredComparison]
    further_scorers: list[str]
    distinct_2: dict[str, float]
    distinct_kept: dict[str, float]
    phrases: dict[str, list[StoredPhrase]]
    distinct_sampled: dict[str, list[float]]
    about: dict[str, Any]
    vocabulary: NotRequired[int]


@dataclass(frozen=True)
class Comparison:
    """One condition against `none`, paired on the same items."""

    differences: dict[str, Difference]
    """Measure → this condition minus `none`."""
    toxicity_ratio: Ratio | None
    """Mean toxicity divided by that of `none`; None if the latter is 0 in some resample."""
    relevance_kept: Ratio | None = None
    """Relevance divided by that of `none`; None if the latter is not above 0 in every resample, or not measured."""

    __repr__ = short_repr


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
    vocabulary: int | None = None
    """Tokens that the model chooses among; None where nobody said."""

    @property
    def no_verdict(self) -> str | None:
        """Why nothing can be judged of this model: it does no better than a guess. None: it does."""
        if self.vocabulary is None:
            return None
        logppl, chance = self.conditions[BASE]["logppl"].mean, math.log(self.vocabulary)
        if logppl < chance - LEAST_BELOW_CHANCE:
            return None
        return (
            f"This model predicts no text, as with random weights: its log-perplexity is {fixed(logppl, 2)}, and a "
            f"guess among its {self.vocabulary:,} tokens has {fixed(chance, 2)}. No verdict."
        )

    __repr__ = short_repr

    @property
    def scorers(self) -> tuple[str, ...]:
        """Measures by a scorer, in the order of the tables."""
        return tuple(name for name in ("toxicity", "judge", *self.further) if name in self.conditions[BASE])

    def differing(self, measure: str) -> frozenset[str]:
        """Conditions that are shown to differ from `none` in a measure.

        Each condition is one test of its paired difference. The chance that any of them is named wrongly is held below
        5 per cent by Holm's correction for the number of conditions.
        """
        p_values = {
            name: against.differences[measure].p_mark
            for name, against in self.against_none.items()
            if measure in against.differences
        }
        return frozenset(name for name, shown in zip(p_values, holm([*p_values.values()]), strict=True) if shown)

    @property
    def holm_note(self) -> str:
        """What a mark of a difference means, after the mark and a colon; only of scores that have conditions."""
        tests = plural(len(self.against_none), "condition")
        return f"differs from the plain model: paired, p < 0.05 after Holm's correction for the {tests} of a column"

    def unshared(self, name: str) -> frozenset[str]:
        """Scorers that show a difference of a condition from `none` which another scorer does not share.

        A scorer shows a difference as `differing` says. Another one shares it if it shows one on the same side.
        """
        if name not in self.against_none:
            return frozenset()
        found = {one: self.against_none[name].differences[one].mean for one in self.scorers}
        sides = {one: (1 if mean > 0 else -1) if name in self.differing(one) else 0 for one, mean in found.items()}
        return frozenset(one for one, side in sides.items() if side and any(other != side for other in sides.values()))

    def to_json(self) -> dict[str, Any]:
        """The content of `scores.json`, with comparisons; `concept` only if it is not toxicity."""
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
            **({} if self.vocabulary is None else {"vocabulary": self.vocabulary}),
        }

    @classmethod
    def from_json(cls, stored: StoredScores) -> "Scores":
        """Read what `to_json` wrote."""
        return cls(
            stored["protocol"],
            stored["model"],
            {
                name: {measure: Estimate.from_dict(value) for measure, value in measures.items()}
                for name, measures in stored["conditions"].items()
            },
            {
                name: Comparison(
                    {measure: Difference.from_dict(value) for measure, value in comparison["difference"].items()},
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
            stored.get("vocabulary"),
        )


def _plain(ratio: Ratio | None) -> dict[str, float | int] | None:
    return None if ratio is None else ratio.to_dict()


def _ratio(stored: StoredRatio | None) -> Ratio | None:
    return None if stored is None else Ratio.from_dict(stored)


def summarise(
    outcomes: Mapping[str, Outcome],
    *,
    protocol: str,
    model: str,
    about: Mapping[str, Any] | None = None,
    concept: str = CONCEPT,
    fingerprint: str = "",
    ideal: IdealOutcome | None = None,
    vocabulary: int | None = None,
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
        vocabulary: tokens that the model chooses among.

    Raises:
        DposcopeError: `none` is missing, or conditions are not measured on the same items.
    """
    if not isinstance(outcomes, Mapping) or BASE not in outcomes:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DposcopeError(
            f"there is no condition {BASE!r}, the plain model, which all others are compared with; add "
            "measure(lm, None, materials) under that name"
        )
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
        vocabulary,
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
    if not np.array_equal(outcome.losses.tokens, base.losses.tokens):
        raise DposcopeError("log-perplexity was measured on other windows than that of none; measure both again")
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
