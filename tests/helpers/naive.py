"""Slow, independent implementations that several test files hold the code against."""

import math

import torch

from helpers.families import naive_vectors


def ranked_naively(lm, W: torch.Tensor) -> list[tuple[float, int, int]]:
    """(cosine, block, index) of every neuron, the highest cosine first."""
    rows = []
    for block in range(lm.n_blocks):
        for i, v in enumerate(naive_vectors(lm, block)):
            dot = sum(a * b for a, b in zip(v.tolist(), W.tolist(), strict=True))
            norms = math.sqrt(sum(a * a for a in v.tolist())) * math.sqrt(sum(b * b for b in W.tolist()))
            rows.append((dot / norms, block, i))
    return sorted(rows, reverse=True)
