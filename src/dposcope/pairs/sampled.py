"""Preference pairs sampled from the model itself: on-policy, without preference data.

The model continues each prompt several times, and a scorer scores the completions: `sample_completions`. A `Pairer`
pairs them in one of two ways:

    pairs = Pairer(seed=1).pairs(sample_completions(lm, prompts, scorer, seed=1))

Random: a harmless completion, drawn at random, against a toxic one, drawn at random. Extremes: the least toxic against
the most toxic, the second least against the second most, and so on. The extremes of one scorer share a manner that the
scorer likes, and training then learns the manner; random pairs differ in toxicity and in little else.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from dposcope.data.given.numbers import number, seed_of, whole
from dposcope.data.short import short_repr
from dposcope.data.texts import listed
from dposcope.errors import DposcopeError
from dposcope.evaluation.scorer import Scorer, check_scorer
from dposcope.model.engine.served import Writer
from dposcope.model.generate import Progress, Sampling, generate
from dposcope.model.language_model import LanguageModel
from dposcope.pairs.pairs import Pair
from dposcope.protocols import Pairing, check_choice


@dataclass(frozen=True)
class ScoredPair:
    """A pair with the scores of its completions."""

    pair: Pair
    preferred_score: float
    """In [0, 1]."""
    dispreferred_score: float
    """In [0, 1]."""

    __repr__ = short_repr


@dataclass(frozen=True)
class ScoredText:
    """A completion of the model, and its score."""

    text: str
    score: float
    """In [0, 1]."""

    __repr__ = short_repr


@dataclass(frozen=True)
class Sampled:
    """The completions of one prompt: distinct ones that are not blank, in the order of sampling."""

    prompt: str
    row: int
    """The prompt's number in the whole list."""
    texts: tuple[ScoredText, ...]

    __repr__ = short_repr


@dataclass(frozen=True)
class Pairer:
    """How completions of a prompt become pairs."""

    pairing: Pairing = "random"
    preferred_below: float = 0.2
    """random: a preferred completion scores below this."""
    dispreferred_from: float = 0.5
    """random: a dispreferred completion scores this or more."""
    min_gap: float = 0.3
    """extremes: the scores of a pair differ by more than this; 0 … 1."""
    most: int = 4
    """Most pairs from one prompt."""
    seed: int = 0
    """random: of the draw; each prompt has its own stream."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Refuse values that give no pairs."""
        check_choice("pairing", self.pairing, get_args(Pairing))
        for part in ("preferred_below", "dispreferred_from", "min_gap"):
            number(part, getattr(self, part))
        object.__setattr__(self, "seed", seed_of(self.seed))
        if not 0 <= self.min_gap < 1:
            raise DposcopeError(
                f"the gap of {self.min_gap} between two scores is outside [0, 1); give a value such as 0.3"
            )
        if not 0 < self.preferred_below <= self.dispreferred_from <= 1:
            raise DposcopeError(
                f"preferred completions below {self.preferred_below} and dispreferred ones from "
                f"{self.dispreferred_from} do not part harmless from toxic; give two values between 0 and 1, the "
                "first not above the second"
            )
        if whole("most", self.most) < 1:
            raise DposcopeError(f"{self.most} pairs per prompt leave none; give at least 1")

    def pairs(self, sampled: Iterable[Sampled]) -> list[ScoredPair]:
        """The pairs of all prompts, in their order; a prompt's own do not depend on the others."""
        joined = self._drawn if self.pairing == "random" else self._extremes
        return [
            ScoredPair(Pair(one.prompt, better.text, worse.text), better.score, worse.score)
            for one in sampled
            for better, worse in joined(one)
        ]

    def harmless(self, sampled: Sampled) -> list[ScoredText]:
        """The completions of a prompt that may be preferred, in the order of sampling."""
        return [one for one in sampled.texts if one.score < self.preferred_below]

    def _drawn(self, sampled: Sampled) -> list[tuple[ScoredText, ScoredText]]:
        better = self.harmless(sampled)
        worse = [one for one in sampled.texts if one.score >= self.dispreferred_from]
        stream = np.random.default_rng([self.seed, sampled.row])
        count = min(self.most, len(better), len(worse))
        return list(
            zip(
                [better[place] for place in stream.permutation(len(better))[:count]],
                [worse[place] for place in stream.permutation(len(worse))[:count]],
                strict=True,
            )
        )

    def _extremes(self, sampled: Sampled) -> list[tuple[ScoredText, ScoredText]]:
        ranked = sorted(sampled.texts, key=lambda one: one.score)
        candidates = list(zip(ranked, reversed(ranked), strict=True))[: min(self.most, len(ranked) // 2)]
        return [(better, worse) for better, worse in candidates if worse.score - better.score > self.min_gap]


def sample_completions(
    lm: LanguageModel,
    prompts: Sequence[str],
    scorer: Scorer,
    *,
    samples: int = 16,
    top_p: float = 0.95,
    temperature: float = 1.0,
    new_tokens: int = 20,
    max_prompt_tokens: int | None = 64,
    seed: int = 0,
    batch_size: int | None = None,
    first_row: int = 0,
    progress: Progress | None = None,
    write: Writer = generate,
) -> list[Sampled]:
    """Completions of each prompt, scored; blank and repeated ones are left out.

    Completion j of prompt p has its own random generator, seeded by (`seed`, `(first_row + p) · samples + j`), so the
    result depends neither on the batch nor on how prompts are divided into calls.

    Args:
        lm: the model.
        prompts: the prompts.
        scorer: scores each completion, without the prompt.
        samples: completions per prompt; at least 2.
        top_p: probability of the nucleus that tokens are sampled from.
        temperature: divides the logits.
        new_tokens: most tokens of a completion.
        max_prompt_tokens: longer prompts are cut to their end; None: never.
        seed: seed of the sampling.
        batch_size: completions at a time.
        first_row: number of the first prompt in the whole list.
        progress: called with the number of completions.
        write: writes them: the model itself, or a server, which draws with numbers of its own.

    Raises:
        DposcopeError: an argument is out of range, or `generate` refuses it.
    """
    prompts = listed("prompts", prompts)
    check_scorer(scorer)
    if whole("samples", samples) < 2:
        raise DposcopeError(f"{samples} completion per prompt gives no pair; sample at least 2")
    written = write(
        lm,
        [prompt for prompt in prompts for _ in range(samples)],
        new_tokens=new_tokens,
        max_prompt_tokens=max_prompt_tokens,
        sampling=Sampling(
            temperature=temperature, top_p=top_p, seed=seed, first_row=whole("first_row", first_row) * samples
        ),
        batch_size=batch_size,
        progress=progress,
    )
    texts = [continuation.text for continuation in written]
    scores = scorer(texts).tolist()
    return [
        Sampled(
            prompt,
            first_row + row,
            _distinct(texts[row * samples : (row + 1) * samples], scores[row * samples : (row + 1) * samples]),
        )
        for row, prompt in enumerate(prompts)
    ]


def _distinct(texts: Sequence[str], scores: Sequence[float]) -> tuple[ScoredText, ...]:
    distinct = {text: score for text, score in zip(texts, scores, strict=True) if text.strip()}
    return tuple(ScoredText(text, score) for text, score in distinct.items())
