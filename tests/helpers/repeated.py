"""What tests of stability share: repetitions of one change with noise, made by hand."""

from dataclasses import replace

import torch

from dposcope.neurons.activations import NeuronMeans
from dposcope.neurons.contributions import Contributions
from dposcope.neurons.stability import NeuronStability, Repetitions, stability
from helpers.changes import random_change


def noisy(change: Contributions, seed: int, strength: float) -> Contributions:
    """The same change with other means and another direction, the more so the stronger."""
    stream = torch.Generator().manual_seed(seed)

    def moved(table: torch.Tensor) -> torch.Tensor:
        return table + strength * torch.randn(table.shape, generator=stream, dtype=torch.float64)

    before, after = (
        NeuronMeans(moved(means.mean), means.second_moment + 9, means.count) for means in (change.before, change.after)
    )
    return replace(
        change,
        cosine=moved(change.cosine).clamp(-1, 1),
        projection_before=moved(change.projection_before),
        projection_after=moved(change.projection_after),
        before=before,
        after=after,
    )


def repeated(source: str, count: int, strength: float, *, shape: tuple[int, int] = (4, 90)) -> Repetitions:
    change = random_change(1, shape)
    names = tuple(f"{source} {number}" for number in range(1, count + 1))
    return Repetitions(source, names, tuple(noisy(change, seed, strength) for seed in range(count)))


def stable() -> NeuronStability:
    """Of four sources, the first of two repetitions."""
    strengths = {"prompts": (2, 0.1), "comments": (4, 0.3), "seeds": (3, 0.02), "directions": (3, 1.0)}
    return stability([repeated(name, count, strength) for name, (count, strength) in strengths.items()], toxic=20)
