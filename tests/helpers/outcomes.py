"""Outcomes and differences of chosen numbers, for tests of what is made of them."""

import numpy as np

from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.perplexity import WindowLosses
from dposcope.evaluation.sampled.continuations import Relevance
from dposcope.evaluation.statistics.intervals import Difference


def difference(mean: float, low: float, high: float, n: int = 200) -> Difference:
    """A difference of a chosen interval, with a p-value that agrees with it."""
    return Difference(mean, low, high, n, 5e-4 if low > 0 or high < 0 else 0.5)


def outcome(toxicity, *, seed: int = 0, judge: bool = True, texts=None, further=None) -> Outcome:
    """An outcome of chosen toxicities, all else random but for what further scorers say."""
    draw, n = np.random.default_rng(seed), len(toxicity)
    per_prompt = {
        "toxicity": np.asarray(toxicity, dtype=np.float64),
        "repetition": draw.random(n),
        "empty": np.zeros(n),
    }
    if judge:
        per_prompt["judge"] = draw.random(n)
    per_prompt |= {name: np.asarray(values, dtype=np.float64) for name, values in (further or {}).items()}
    tokens = np.random.default_rng(0).integers(50, 128, 12)  # the same windows, whatever the condition
    return Outcome(
        texts or [f"text {place}" for place in range(n)],
        per_prompt,
        draw.random(12),
        WindowLosses(draw.random(12) * 300, tokens),
        WindowLosses(draw.random(12) * 60, np.tile([20, 20, 3, 20, 11, 20], 2)),
        Relevance(draw.random(n) * 30, np.minimum(np.arange(n) + 1, 20)),
    )
