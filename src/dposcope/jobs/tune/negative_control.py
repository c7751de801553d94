"""`dposcope tune --negative-control`: the same job with shuffled scores or a random direction; any effect is chance."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dposcope.artefacts import value_digest
from dposcope.directions.direction import Direction
from dposcope.evaluation.scorer import Scorer, drawn_scores
from dposcope.interventions.origin import Control
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.jobs.run import Run
from dposcope.model.generate import generate

_SALT = 1_000_003
"""Added to the run's seed, so that a control draws other random numbers than the rest of the run."""


def direction_stem(run: Run, control: Control | None) -> Path:
    """Path of the direction that the run's edits are made from, without suffix."""
    return run.folder / ("control-direction" if control == "random-direction" else "direction")


def with_direction(job: Job, ingredients: Ingredients, control: Control | None, seed: int) -> Ingredients:
    """Replace the direction by a random one if the control asks for it; a stage of its own."""
    if control != "random-direction":
        return ingredients
    true = job.run.folder / "direction"
    direction = job.run.value(
        direction_stem(job.run, control).name,
        "A random direction",
        Direction,
        inputs={"direction": value_digest(true), "seed": seed},
        make=lambda: ingredients.direction.random_like(seed + _SALT),
    )
    return replace(ingredients, direction=direction)


@dataclass(frozen=True)
class _Scores:
    """`control-scores.json`."""

    scorer: str
    scores: list[float]


def ranking_scorer(job: Job, scorer: Scorer, control: Control | None, *, batch_size: int | None, seed: int) -> Scorer:
    """The scorer that selects edits: `scorer` itself, or shuffled scores of the plain model's texts (a stage)."""
    if control != "shuffled-scores":
        return scorer
    prompts = job.data.choose

    def make() -> dict[str, Any]:
        written = generate(job.lm, list(prompts), batch_size=batch_size)
        return {"scorer": scorer.name, "scores": scorer([text.text for text in written]).tolist()}

    stored = job.run.json(
        "control-scores",
        "Scores to shuffle",
        _Scores,
        inputs={
            "model": job.model,
            "prompts": job.data.digests["choose_prompts"],
            "scorer": [scorer.name, scorer.digest],
            "batch_size": batch_size,
        },
        make=make,
    )
    return drawn_scores(stored.scores, of=scorer.name, seed=seed + _SALT)
