"""What tests of contributions share: tuned copies, contributions of every family, and neurons one by one."""

from dataclasses import dataclass
from functools import cache

import torch

from dposcope.model.language_model import LanguageModel
from dposcope.neurons.activations import NeuronMeans, collect_means
from dposcope.neurons.contributions import Contributions, contributions
from helpers.families import TEXTS, copied, random_direction, tiny

PROMPTS = TEXTS[:5]
NEW = 5


@torch.no_grad()
def tuned_copy(lm: LanguageModel, *, strength: float = 0.1, seed: int = 5) -> LanguageModel:
    """A copy whose parameters are all a little different, as training leaves them."""
    tuned = copied(lm)
    stream = torch.Generator().manual_seed(seed)
    for parameter in tuned.model.parameters():
        noise = torch.randn(parameter.shape, generator=stream).to(parameter.dtype)
        spread = parameter.std() if parameter.numel() > 1 else parameter.abs()
        parameter.add_(strength * spread * noise)
    return tuned


def means_of(lm: LanguageModel) -> NeuronMeans:
    """Of a few short continuations."""
    return collect_means(lm, PROMPTS, new_tokens=NEW)


@cache
def family_change(family: str) -> Contributions:
    """Contributions of a tiny model of a family and its tuned copy."""
    base = tiny(family)
    tuned = tuned_copy(base)
    return contributions(base, tuned, means_of(base), means_of(tuned), random_direction(base))


def random_means(shape: tuple[int, int], *, seed: int, tokens: int = 9) -> NeuronMeans:
    """Moments of random activations, half of all neurons negative on average."""
    rows = torch.randn(tokens, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows = rows + 2 * rows[:1]
    return NeuronMeans(rows.mean(0), rows.square().mean(0), tokens)


def random_change(seed: int = 0, shape: tuple[int, int] = (3, 40), *, zeros: bool = True) -> Contributions:
    """Contributions of models that never were; with `zeros` some cosines, means and Δ_i are exactly 0."""
    stream = torch.Generator().manual_seed(1000 + seed)

    def table(spread: float) -> torch.Tensor:
        return spread * torch.randn(shape, generator=stream, dtype=torch.float64)

    before = random_means(shape, seed=2 * seed)
    mean = before.mean + table(0.5)
    projection = table(1.0)
    projection_after = projection + table(0.1)
    if zeros:
        projection[0, :2] = projection_after[0, :2] = 0
        before.mean[0, 1:4] = 0
        mean[1, :5], projection_after[1, :5] = before.mean[1, :5], projection[1, :5]
    after = NeuronMeans(mean, mean.square() + table(0.5).square(), 7)
    cosine = projection / (1 + projection.abs())
    return Contributions(cosine, projection, projection_after, torch.rand(shape, generator=stream), before, after)


@dataclass(frozen=True)
class Neuron:
    """One neuron, by the paper's equations."""

    block: int
    index: int
    cosine: float
    before: float
    after: float
    delta: float
    """Eq. 2."""
    group: str | None
    """Table 4, without the arrow."""
    effect: str | None
    certain: bool

    @property
    def shift(self) -> float:
        return self.before - self.after

    @property
    def moved(self) -> str | None:
        """As `TP↓`."""
        return self.group + self.effect if self.group and self.effect else None


def neurons_of(c: Contributions) -> list[Neuron]:
    """Every neuron, block by block."""
    result = []
    for block, row in enumerate(c.cosine.tolist()):
        for i, cosine in enumerate(row):
            before, after = c.before.mean[block, i].item(), c.after.mean[block, i].item()
            written = c.projection_before[block, i].item(), c.projection_after[block, i].item()
            delta = before * written[0] - after * written[1]
            group = None if cosine == 0 or before == 0 else ("T" if cosine > 0 else "A") + ("P" if before > 0 else "N")
            effect = None if delta == 0 else "↓" if delta > 0 else "↑"
            error = c.standard_error[block, i].item()
            certain = abs(delta) > 1.96 * error
            result.append(Neuron(block, i, cosine, before, after, delta, group, effect, certain))
    return result


MOVED = ["TP↓", "TN↓", "AP↓", "AN↓", "TP↑", "TN↑", "AP↑", "AN↑"]
