"""The directions along which every claim is judged, and what the paper's patches give along each.

A claim that holds along one direction may fail along another: the paper's probe, the same probe fitted with another
seed or on as many toxic as other comments, the difference of means, the contrast of seed words, and random directions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dposcope.artefacts import tensor_fingerprint
from dposcope.directions.direction import Direction
from dposcope.directions.features import Features, residual_features
from dposcope.directions.judge import TokenJudge
from dposcope.directions.means import mean_difference
from dposcope.directions.probe import SMALLEST_CLASS, fit_probe
from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.conditions.measure import score_texts
from dposcope.jobs.explain.explanation import Explanation, explanation_of
from dposcope.jobs.explain.patches import Patch, patches
from dposcope.jobs.explain.repetitions import free_direction
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.settings import DirectionSpec
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.contributions import Contributions, along

PROBE, BALANCED, MEANS, CONTRAST, RANDOM = (
    "probe",
    "balanced probe",
    "difference of means",
    "token contrast",
    "random",
)
SEEDS = 3
"""Probes, and random directions."""

_KINDS = {"probe": PROBE, "mean_difference": MEANS, "token_contrast": CONTRAST}


def name_of(kind: str) -> str:
    """The name of the run's own direction, by `Direction.kind`."""
    return _KINDS.get(kind, "saved")


@dataclass(frozen=True, eq=False)
class Along:
    """What one direction says of the same two models."""

    name: str
    explanation: Explanation
    patches: Sequence[Patch]
    control: bool = False
    """A random direction."""


def claim_directions(job: Job, own: Direction, spec: DirectionSpec) -> dict[str, Direction]:
    """Every direction by name, the run's own among them; probes only where there are enough comments.

    Args:
        job: run, base model and data.
        own: the run's direction.
        spec: how it was made.
    """
    comments = job.data.direction_comments
    how: Any = {"block": spec.block, "protocol": spec.protocol}
    found: dict[str, Direction] = {}
    counts = comments.counts
    if min(counts.toxic, counts.non_toxic) >= SMALLEST_CLASS:
        features = _features(job, spec)
        inputs = {**job.model, "comments": job.data.digests["direction_comments"], **how}
        rows = comments.balanced_rows()
        few = Features(features.vectors[torch.from_numpy(rows)], features.residual_norm)
        texts = [comments.texts[row] for row in rows]

        def made(name: str, seed: int, make: Any) -> Direction:
            stage = f"direction-along-{name.replace(' ', '-').replace(',', '')}"
            title = f"Direction: {name}"
            return job.run.value(stage, title, Direction, inputs={**inputs, "seed": seed}, make=make)

        for number in range(SEEDS):
            seed = spec.seed + number
            name = PROBE if number == 0 else f"{PROBE}, seed {seed}"

            def probe(seed: int = seed) -> Direction:
                if spec.kind == "probe" and seed == spec.seed:  # fitted already, on the same comments
                    return own
                return fit_probe(job.lm, comments.texts, comments.labels, seed=seed, features=features, **how)

            found[name] = made(name, seed, probe)
        found[BALANCED] = made(
            BALANCED,
            spec.seed,
            lambda: fit_probe(job.lm, texts, comments.labels[rows], seed=spec.seed, features=few, **how),
        )
        found[MEANS] = made(
            MEANS, 0, lambda: mean_difference(job.lm, texts, comments.labels[rows], features=few, **how)
        )
    if spec.concept.seeds_with:
        found[CONTRAST] = free_direction(job, spec)
    found[name_of(own.kind)] = own
    return found | {f"{RANDOM} {number + 1}": own.random_like(spec.seed + number) for number in range(SEEDS)}


def _features(job: Job, spec: DirectionSpec) -> Features:
    """The stage `features-all`: of all comments of the direction."""
    return job.run.value(
        "features-all",
        "Residual streams of all comments",
        Features,
        inputs={
            **job.model,
            "comments": job.data.digests["direction_comments"],
            "block": spec.block,
            "protocol": spec.protocol,
            "batch_size": spec.batch_size,
        },
        make=lambda: residual_features(
            job.lm,
            job.data.direction_comments.texts,
            block=spec.block,
            protocol=spec.protocol,
            batch_size=spec.batch_size,
            progress=job.run.reporter.progress,
        ),
    )


def explained_along(
    job: Job,
    other: LanguageModel,
    change: Contributions,
    directions: Mapping[str, Direction],
    judge: TokenJudge,
    *,
    toxic_sets: Sequence[int],
    seed: int,
) -> list[Along]:
    """What each direction says of the two models: contributions from the same means, groups, toxic neurons.

    Args:
        job: run and base model.
        other: the tuned model.
        change: contributions along the run's own direction.
        directions: see `claim_directions`.
        judge: says which tokens are toxic.
        toxic_sets: how many neurons of highest cosine are called toxic.
        seed: of random axes.
    """
    found: list[Along] = []
    for name, direction in directions.items():
        here = along(change, job.lm, other, direction.vector)
        explanation = explanation_of(job.lm, other, direction, here, judge=judge, toxic_sets=toxic_sets, seed=seed)
        chosen = patches(here, toxic=explanation.patch_sets(), controls=False)
        found.append(Along(name, explanation, chosen, control=direction.kind == "random"))
        job.run.reporter.progress(len(found), len(directions))
    return found


PatchScores = Mapping[str, Mapping[str, np.ndarray]]
"""Patch → scorer → one score a prompt."""


def patched_along(job: Job, found: Along, materials: Materials) -> PatchScores:
    """The stage `measure-along-DIRECTION`: scores of texts under each of the direction's patches; nothing else is
    measured of them.

    Args:
        job: run, base model and data.
        found: of one direction.
        materials: prompts and scorers.
    """
    change = found.explanation.contributions
    masks = {patch.name: patch.neurons.mask for patch in found.patches}
    name = f"along-{found.name.replace(' ', '-').replace(',', '')}"
    stored = job.run.json(
        f"measure-{name}",
        f"Measuring: patches along {found.name}",
        dict[str, dict[str, list[float]]],
        inputs={
            **job.model,
            "patches": tensor_fingerprint(masks | {"values": change.after.mean}),
            "names": list(masks),
            "prompts": materials.digests["prompts"],
            "scorers": {name: [scorer.name, scorer.digest] for name, scorer in materials.scorers.items()},
            "protocol": materials.protocol,
            "batch_size": materials.batch_size,
        },
        make=lambda: {
            patch.name: {
                name: values.tolist()
                for name, values in score_texts(
                    job.lm, patch.assign(change), materials, progress=job.run.reporter.progress
                ).items()
            }
            for patch in found.patches
        },
        file=job.run.folder / "conditions" / f"{name}.json",
    )
    return {
        patch: {scorer: np.array(values, dtype=np.float64) for scorer, values in by.items()}
        for patch, by in stored.items()
    }
