"""Repetitions that measure how stable groups are: folds of prompts, refits of the direction, kinds of direction."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dposcope.artefacts import value_digest
from dposcope.data.comments import Comments
from dposcope.directions.direction import Direction
from dposcope.directions.features import Features, residual_features
from dposcope.directions.means import mean_difference
from dposcope.directions.probe import SMALLEST_CLASS, fit_probe
from dposcope.directions.refits import Refits, refit
from dposcope.directions.tokens import contrast_matrix, token_contrast
from dposcope.jobs.explain.settings import Repeats
from dposcope.jobs.ingredients.direction import DIRECTIONS
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.jobs.settings import DirectionSpec
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.contributions import Contributions, along
from dposcope.neurons.folds import FoldedMeans, pooled
from dposcope.neurons.resampling import PARTS
from dposcope.neurons.stability import Repetitions

PROMPTS, COMMENTS, SEEDS, KINDS = "prompts", "comments", "seeds", "directions"
"""Sources of variation."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """What the direction is fitted on."""

    spec: DirectionSpec
    """How it is fitted."""
    comments: Comments
    features: Features


def prompt_folds(asked: int, prompts: int) -> int:
    """Number of folds: at most the number of prompts; 0 for a single prompt."""
    folds = min(asked, prompts)
    return folds if folds > 1 else 0


def prompt_parts(asked: int, prompts: int) -> int:
    """Number of parts that prompts are split into: the first multiple of the folds that is at least PARTS."""
    folds = prompt_folds(asked, prompts)
    parts = folds * math.ceil(PARTS / folds) if folds else 0
    return parts if parts <= prompts else folds


def fitted_comments(job: Job, spec: DirectionSpec) -> Fitted:
    """The stage `features`: features of the comments, for the direction and its refits."""
    run, data = job.run, job.data
    balanced = spec.kind == "mean-difference"
    comments = data.direction_comments.balanced() if balanced else data.direction_comments
    features = run.value(
        "features",
        "Residual streams of the comments",
        Features,
        inputs={
            **job.model,
            "comments": data.digests["direction_comments"],
            "balanced": balanced,
            "block": spec.block,
            "protocol": spec.protocol,
            "batch_size": spec.batch_size,
        },
        make=lambda: residual_features(
            job.lm,
            comments.texts,
            block=spec.block,
            protocol=spec.protocol,
            batch_size=spec.batch_size,
            progress=run.reporter.progress,
        ),
    )
    return Fitted(spec, comments, features)


def repetitions(
    job: Job,
    other: LanguageModel,
    ingredients: Ingredients,
    after: FoldedMeans,
    change: Contributions,
    fitted: Fitted | None,
    kinds: Mapping[str, Direction],
    asked: Repeats,
) -> list[Repetitions]:
    """All repetitions that are asked for, by source of variation.

    Args:
        job: run, base model and data.
        other: the tuned model.
        ingredients: direction and means of the base.
        after: means of the tuned model, in the same parts of the prompts.
        change: contributions of the run itself.
        fitted: comments and features, see `fitted_comments`; None for repetitions by prompts alone.
        kinds: see `other_kinds`.
        asked: how many repetitions.
    """
    sources: list[Repetitions] = []
    if ingredients.folds:
        count = prompt_folds(asked.folds, len(job.data.learn))
        sides = (pooled(side, count) for side in (ingredients.folds, after.folds))
        changes = [replace(change, before=before, after=late) for before, late in zip(*sides, strict=True)]
        sources.append(Repetitions(PROMPTS, _numbered("fold", len(changes)), tuple(changes)))
    if fitted is None:
        return sources

    def read(vectors: Tensor) -> list[Contributions]:
        return [along(change, job.lm, other, vector) for vector in vectors]

    own = fitted.spec.kind if fitted.spec.kind in DIRECTIONS else "saved"
    if ingredients.direction.kind in ("probe", "mean_difference") and own != "saved":
        refits = _refits(job, ingredients.direction, fitted, asked)
        if len(refits.resampled):
            names = _numbered("resample", len(refits.resampled))
            sources.append(Repetitions(COMMENTS, names, tuple(read(refits.resampled))))
        if len(refits.reseeded):
            names = ("the run's", *(f"seed {seed}" for seed in asked.seeds))
            sources.append(Repetitions(SEEDS, names, (change, *read(refits.reseeded))))
    changes = {own: change} | {
        kind: along(change, job.lm, other, direction.vector) for kind, direction in kinds.items()
    }
    return [*sources, Repetitions(KINDS, tuple(changes), tuple(changes.values()))]


def _numbered(name: str, count: int) -> tuple[str, ...]:
    return tuple(f"{name} {number}" for number in range(1, count + 1))


def _refits(job: Job, direction: Direction, fitted: Fitted, asked: Repeats) -> Refits:
    """The stage `refits`."""
    run = job.run
    return run.value(
        "refits",
        "The direction, fitted again",
        Refits,
        inputs={
            "made_from": [value_digest(run.folder / name) for name in ("direction", "features")],
            "seeds": asked.seeds,
            "bootstrap": asked.bootstrap,
        },
        make=lambda: refit(
            direction,
            fitted.features.vectors,
            fitted.comments.labels,
            seeds=asked.seeds,
            bootstrap=asked.bootstrap,
            protocol=fitted.spec.protocol,
            progress=run.reporter.progress,
        ),
    )


def other_kinds(job: Job, fitted: Fitted) -> dict[str, Direction]:
    """All kinds of direction except the run's own; no probe if there are too few comments."""
    spec, comments, features = fitted.spec, fitted.comments, fitted.features
    how: Mapping[str, Any] = {"block": spec.block, "protocol": spec.protocol}

    def difference() -> Direction:
        rows = comments.balanced_rows()
        chosen = Features(features.vectors[torch.from_numpy(rows)], features.residual_norm)
        return mean_difference(job.lm, *_chosen(comments, rows), features=chosen, **how)

    def probe() -> Direction:
        return fit_probe(job.lm, comments.texts, comments.labels, seed=spec.seed, features=features, **how)

    makers: dict[str, Callable[[], Direction]] = {"mean-difference": difference}
    if min(comments.counts.toxic, comments.counts.non_toxic) >= SMALLEST_CLASS:
        makers["probe"] = probe
    kinds = {kind: _direction(job, kind, make, spec) for kind, make in makers.items() if kind != spec.kind}
    # A concept without seed words has no direction of token contrast.
    if spec.kind != "token-contrast" and spec.concept.seeds_with:
        kinds["token-contrast"] = free_direction(job, spec)
    return kinds


def _chosen(comments: Comments, rows: NDArray[np.intp]) -> tuple[list[str], NDArray[np.bool_]]:
    return [comments.texts[row] for row in rows], comments.labels[rows]


def _direction(job: Job, kind: str, make: Callable[[], Direction], spec: DirectionSpec) -> Direction:
    """The stage `direction-KIND`."""
    run = job.run
    return run.value(
        f"direction-{kind}",
        f"Direction by {kind.replace('-', ' ')}, to compare",
        Direction,
        inputs={
            "made_from": value_digest(run.folder / "features"),
            "comments": job.data.digests["direction_comments"],  # their labels are no part of the features
            "block": spec.block,
            "protocol": spec.protocol,
            "seed": spec.seed,
        },
        make=make,
    )


def free_direction(job: Job, spec: DirectionSpec) -> Direction:
    """The stage `direction-free`: token contrast, for probe-free edits (paper 6.2) and as one of the kinds."""
    seeds, matrix = spec.concept.seeds(), contrast_matrix(spec.protocol)
    return job.run.value(
        "direction-free",
        "Direction from seed words",
        Direction,
        inputs={**job.model, "protocol": spec.protocol, "seeds": asdict(seeds)},
        make=lambda: token_contrast(job.lm, seeds.toxic, seeds.non_toxic, matrix=matrix),
    )
