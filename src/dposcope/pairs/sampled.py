"""Preference pairs sampled from the model itself: on-policy, without preference data (SPEC 7).

The model continues each prompt several times, and a scorer ranks the completions. The least toxic is paired with the
most toxic, the second least with the second most, and so on, if their scores differ enough.
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
    """A pair with the scores of its completions."""

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
    """Pairs from `samples` completions of each prompt, in the order of `prompts`.

    Blank and repeated completions are left out. The defaults give 579 pairs for 200 challenge prompts; half as many
    completions and pairs per prompt give 280. Completion j of prompt p has its own random generator, seeded by (`seed`,
    `(first_row + p) · samples + j`), so the result depends neither on the batch nor on how prompts are divided into
    calls.

    Args:
        lm: the model.
        prompts: the prompts.
        scorer: scores each completion, without the prompt.
        samples: completions per prompt; at least 2.
        top_p: probability of the nucleus that tokens are sampled from.
        temperature: divides the logits.
        min_gap: the scores of a pair differ by more than this; 0 … 1.
        pairs_per_prompt: most pairs from one prompt.
        new_tokens: most tokens of a completion.
        max_prompt_tokens: longer prompts are cut to their end; None: never.
        seed: seed of the sampling.
        batch_size: completions at a time.
        first_row: number of the first prompt in the whole list.
        progress: called with the number of completions.

    Raises:
        DposcopeError: an argument is out of range, or `generate` refuses it.
    """
    if samples < 2:
        raise DposcopeError(f"{samples} completion per prompt gives no pair; sample at least 2")
    if not 0 <= min_gap < 1:
        raise DposcopeError(f"the gap of {min_gap} between two scores is outside [0, 1); give a value such as 0.3")
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
    """Pairs of the lowest and the highest score, the second lowest and the second highest, and so on."""
    distinct = {text: score for text, score in zip(texts, scores, strict=True) if text.strip()}
    ranked = sorted(distinct, key=distinct.__getitem__)
    candidates = list(zip(ranked, reversed(ranked), strict=True))[: min(most, len(ranked) // 2)]
    return [
        ScoredPair(Pair(prompt, better, worse), distinct[better], distinct[worse])
        for better, worse in candidates
        if distinct[worse] - distinct[better] > min_gap
    ]
