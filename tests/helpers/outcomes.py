"""Outcomes of chosen toxicities, for tests of what is made of them."""

import numpy as np

from dposcope.evaluation.conditions.measure import Outcome
from dposcope.evaluation.perplexity import WindowLosses
from dposcope.evaluation.sampled.continuations import Relevance


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
    tokens = draw.integers(50, 128, 4)
    return Outcome(
        texts or [f"text {place}" for place in range(n)],
        per_prompt,
        draw.random(5),
        WindowLosses(draw.random(4) * 300, tokens),
        WindowLosses(draw.random(6) * 60, np.array([20, 20, 3, 20, 11, 20])),
        Relevance(draw.random(n) * 30, np.minimum(np.arange(n) + 1, 20)),
    )
