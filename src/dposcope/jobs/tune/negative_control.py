"""`dposcope tune --negative-control`: the same job where there is nothing to find."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from dposcope.artefacts import value_digest
from dposcope.directions.direction import Direction
from dposcope.evaluation.scorer import Scorer, drawn_scores
from dposcope.interventions.origin import Control
from dposcope.jobs.ingredients import Ingredients, Job
from dposcope.jobs.run import Run
from dposcope.model.generate import generate

_SALT = 1_000_003
"""Keeps the draws of a control apart from those of everything else that has the run's seed."""


def direction_stem(run: Run, control: Control | None) -> Path:
    """Where the direction of a run lies that its edits are made of."""
    return run.folder / ("control-direction" if control == "random-direction" else "direction")


def with_direction(job: Job, ingredients: Ingredients, control: Control | None, seed: int) -> Ingredients:
    """The same, with a random direction where that is the control: a stage of its own."""
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


def ranking_scorer(job: Job, scorer: Scorer, control: Control | None, *, batch_size: int, seed: int) -> Scorer:
    """What chooses among edits: the scorer itself, or shuffled scores of what the plain model writes, a stage too."""
    if control != "shuffled-scores":
        return scorer
    prompts = job.data.learn

    def make() -> dict[str, Any]:
        written = generate(job.lm, list(prompts), batch_size=batch_size)
        return {"scorer": scorer.name, "scores": scorer([one.text for one in written]).tolist()}

    told = job.run.json(
        "control-scores",
        "Scores to shuffle",
        inputs={
            "model": job.model,
            "prompts": job.data.digests["learn_prompts"],
            "scorer": [scorer.name, scorer.digest],
            "batch_size": batch_size,
        },
        make=make,
    )
    return drawn_scores(told["scores"], of=scorer.name, seed=seed + _SALT)
