"""Preference pairs sampled from the model itself: on-policy, and no preference data needed (SPEC 7).

Each prompt is continued several times; a judge puts the continuations in order, and the least
toxic is preferred to the most toxic, the second least to the second most …, where they differ enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from dposcope.errors import DposcopeError
from dposcope.evaluation.scorer import Scorer
from dposcope.model.generate import Progress, Sampling, generate
from dposcope.model.language_model import LanguageModel
from dposcope.pairs.pairs import Pair


@dataclass(frozen=True)
class ScoredPair:
    """A pair, and what a scorer gave its continuations."""

    pair: Pair
    preferred_score: float
    """In [0, 1]."""
    dispreferred_score: float
    """In [0, 1]."""


def sample_pairs(
    lm: LanguageModel,
    prompts: Sequence[str],
    scorer: Scorer,
    *,
    samples: int = 16,
    top_p: float = 0.95,
    temperature: float = 1.0,
    min_gap: float = 0.3,
    pairs_per_prompt: int = 4,
    new_tokens: int = 20,
    max_prompt_tokens: int | None = 64,
    seed: int = 0,
    batch_size: int = 32,
    first_row: int = 0,
    progress: Progress | None = None,
) -> list[ScoredPair]:
    """Pairs from `samples` continuations of each prompt, in the order of `prompts`.

    Blank continuations and repeats of one are left out. The defaults gave 579 pairs of 200 challenge prompts; half as
    many continuations and pairs per prompt gave 280. Continuation j of prompt p draws from a stream of its own, seeded
    by (`seed`, `(first_row + p) · samples + j`), so the result depends neither on the batch nor on how the prompts are
    divided among calls.

    Args:
        lm: the model.
        prompts: what it continues.
        scorer: gives each continuation its toxicity, without the prompt.
        samples: continuations per prompt; at least 2.
        top_p: of the nucleus they are drawn from.
        temperature: divides the logits.
        min_gap: the scores of a pair differ by more than this; 0 … 1.
        pairs_per_prompt: most pairs from one prompt.
        new_tokens: most tokens of a continuation.
        max_prompt_tokens: longer prompts keep their end; None: never cut.
        seed: of the draws.
        batch_size: continuations at a time.
        first_row: number of the first prompt among all.
        progress: called with continuations written.

    Raises:
        DposcopeError: a setting without meaning, or what `generate` refuses.
    """
    if samples < 2:
        raise DposcopeError(f"{samples} continuation per prompt gives no pair; sample at least 2")
    if not 0 <= min_gap < 1:
        raise DposcopeError(f"a gap of {min_gap} between two scores is outside [0, 1); choose one such as 0.3")
    if pairs_per_prompt < 1:
        raise DposcopeError(f"{pairs_per_prompt} pairs per prompt leave none; give at least 1")
    written = generate(
        lm,
        [prompt for prompt in prompts for _ in range(samples)],
        new_tokens=new_tokens,
        max_prompt_tokens=max_prompt_tokens,
        sampling=Sampling(temperature=temperature, top_p=top_p, seed=seed, first_row=first_row * samples),
        batch_size=batch_size,
        progress=progress,
    )
    texts = [continuation.text for continuation in written]
    scores = scorer(texts).tolist()
    pairs: list[ScoredPair] = []
    for row, prompt in enumerate(prompts):
        own = slice(row * samples, (row + 1) * samples)
        pairs += _best_pairs(prompt, texts[own], scores[own], min_gap, pairs_per_prompt)
    return pairs


def _best_pairs(
    prompt: str, texts: Sequence[str], scores: Sequence[float], min_gap: float, most: int
) -> list[ScoredPair]:
    """The ends of the ranking against each other, from the outside in."""
    distinct = {text: score for text, score in zip(texts, scores, strict=True) if text.strip()}
    ranked = sorted(distinct, key=distinct.__getitem__)
    candidates = list(zip(ranked, reversed(ranked), strict=True))[: min(most, len(ranked) // 2)]
    return [
        ScoredPair(Pair(prompt, better, worse), distinct[better], distinct[worse])
        for better, worse in candidates
        if distinct[worse] - distinct[better] > min_gap
    ]
