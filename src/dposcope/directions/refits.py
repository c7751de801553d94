"""The direction fitted again, on resampled comments and with other seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dposcope.artefacts import NoFacts, load_tensors, save_tensors
from dposcope.directions.direction import Direction
from dposcope.directions.means import class_difference
from dposcope.directions.probe import TEST_SHARE, fit_rows, split_rows
from dposcope.errors import DposcopeError
from dposcope.model.generate import Progress
from dposcope.protocols import Protocol


@dataclass(frozen=True, eq=False)
class Refits:
    """Refitted directions. Only their orientation matters, as contributions do not depend on the norm."""

    resampled: Tensor
    """Fitted on bootstrap resamples of the comments, `[n, d]`, float64; n may be 0."""
    reseeded: Tensor
    """Fitted on the same comments with other seeds, `[m, d]`; m is 0 if the method has no seed."""

    def save(self, stem: str | Path) -> None:
        """Write `stem.safetensors` and `stem.json`."""
        save_tensors(stem, "Refits", {"resampled": self.resampled, "reseeded": self.reseeded}, {})

    @classmethod
    def load(cls, stem: str | Path) -> "Refits":
        """Read what `save` wrote."""
        tensors = load_tensors(stem, "Refits", NoFacts).tensors
        return cls(tensors["resampled"], tensors["reseeded"])


def resample(positive: NDArray[np.bool_], rows: NDArray[np.intp], seed: int) -> NDArray[np.intp]:
    """A bootstrap resample of `rows`: drawn with replacement within each class, so that class sizes are kept.

    Args:
        positive: class of every text, `[texts]`.
        rows: the texts to draw from.
        seed: seed of the draw.
    """
    draw = np.random.default_rng(seed)
    parts = [rows[positive[rows] == label] for label in (True, False)]
    return np.concatenate([draw.choice(part, size=len(part), replace=True) for part in parts])


def refit(
    direction: Direction,
    vectors: Tensor,
    positive: NDArray[np.bool_],
    *,
    seeds: Sequence[int],
    bootstrap: bool = True,
    protocol: Protocol = "strict",
    progress: Progress | None = None,
) -> Refits:
    """Fit a probe or a difference of means again, from the same features.

    A resampled probe keeps the run's split and its C. With new folds, a comment that was drawn twice would be in the
    fitted part and in the tested part. A probe with another seed is that of `fit_probe` with this seed: other held-out
    rows, other folds, its own C. A difference of means has no seed.

    Args:
        direction: made by `fit_probe` or `mean_difference`.
        vectors: features of its texts, `[texts, d]`, float64.
        positive: True where toxic, `[texts]`.
        seeds: one refit of each kind per seed.
        bootstrap: whether to resample.
        protocol: protocol of the fit.
        progress: called after each refit.

    Raises:
        DposcopeError: the direction was made by another method.
    """
    if direction.kind not in ("probe", "mean_difference"):
        raise DposcopeError(
            f"a direction of kind {direction.kind!r} is not fitted on comments; give a probe or a mean_difference"
        )
    probe = direction.kind == "probe"
    if probe and ("seed" not in direction.about or "strength" not in direction.about.get("quality", {})):
        raise DposcopeError("the probe does not say with which seed and strength it was fitted; fit it again")
    x = vectors.numpy()
    total = len(seeds) * (int(bootstrap) + int(probe))
    resampled: list[Tensor] = []
    reseeded: list[Tensor] = []

    def report() -> None:
        if progress is not None:
            progress(len(resampled) + len(reseeded), total)

    for seed in seeds if bootstrap else ():
        if probe:
            own = int(direction.about["seed"])
            rows = resample(positive, split_rows(positive, test_share=TEST_SHARE, seed=own).fit, seed)
            strength = float(direction.about["quality"]["strength"])
            again = fit_rows(x[rows], positive[rows], protocol=protocol, seed=own, strength=strength)
            resampled.append(torch.from_numpy(again.weight.copy()))
        else:
            rows = resample(positive, np.arange(len(positive)), seed)
            resampled.append(class_difference(vectors[torch.from_numpy(rows)], positive[rows]))
        report()
    for seed in seeds if probe else ():
        fit = split_rows(positive, test_share=TEST_SHARE, seed=seed).fit
        again = fit_rows(x[fit], positive[fit], protocol=protocol, seed=seed)
        reseeded.append(torch.from_numpy(again.weight.copy()))
        report()
    width = vectors.shape[1]
    return Refits(_stacked(resampled, width), _stacked(reseeded, width))


def _stacked(vectors: list[Tensor], width: int) -> Tensor:
    return torch.stack(vectors) if vectors else torch.empty(0, width, dtype=torch.float64)
