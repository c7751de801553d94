"""The stages that every job begins with: direction, neuron means, judge."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from dposcope.directions.direction import Direction
from dposcope.directions.features import Features
from dposcope.evaluation.trained_scorer import TrainedScorer
from dposcope.jobs.ingredients.direction import make_direction, saved_digest
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.settings import DirectionSpec
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.activations import NeuronMeans, collect_means
from dposcope.neurons.folds import FoldedMeans, collect_by_fold, folded_files
from dposcope.neurons.groups import cosines


@dataclass(frozen=True, eq=False)
class Ingredients:
    """A model with its direction and means: what interventions are made of."""

    lm: LanguageModel
    direction: Direction
    means: NeuronMeans
    folds: tuple[NeuronMeans, ...] = ()
    """The same over each fold of the prompts, where they were asked for."""

    @cached_property
    def cosine(self) -> Tensor:
        """cos_i of every neuron, `[L, d_mlp]`."""
        return cosines(self.lm, self.direction.vector)


def prepare(job: Job, spec: DirectionSpec, *, folds: int = 0, features: Features | None = None) -> Ingredients:
    """The stages `direction` and `means` of a run.

    Args:
        job: run, model and data.
        spec: which direction.
        folds: of the prompts, for means of each.
        features: of the comments that the direction takes, where they were read before.
    """
    run, lm, data = job.run, job.lm, job.data
    direction = run.value(
        "direction",
        "Direction from comments",
        Direction,
        inputs={
            "model": job.model,
            "comments": data.digests["direction_comments"],
            "direction": spec.kind,
            "saved": saved_digest(spec.kind),
            "block": spec.block,
            "seed": spec.seed,
            "protocol": spec.protocol,
            "batch_size": spec.batch_size,
            "seeds": asdict(spec.concept.seeds()) if spec.kind == "token-contrast" else None,
            **({"matrix": "output"} if spec.kind == "token-contrast" and spec.protocol == "reference" else {}),
        },
        make=lambda: make_direction(
            lm, data.direction_comments, spec, progress=run.reporter.progress, features=features
        ),
    )
    means = means_stage(
        job,
        lm,
        "means",
        "Neuron means while the model writes",
        inputs={"model": job.model},
        protocol=spec.protocol,
        batch_size=spec.batch_size,
        folds=folds,
    )
    return Ingredients(lm, direction, means.whole, means.folds)


def means_stage(
    job: Job,
    lm: LanguageModel,
    name: str,
    title: str,
    *,
    inputs: Mapping[str, Any],
    protocol: str,
    batch_size: int | None,
    folds: int,
) -> FoldedMeans:
    """The stage that collects means of one model on the prompts to learn from.

    Args:
        job: run and data.
        lm: the model that writes.
        name: of the stage and its files.
        title: for people.
        inputs: what identifies the model.
        protocol: see `collect_means`.
        batch_size: prompts at a time.
        folds: 0 for none.
    """
    run, prompts, stem = job.run, job.data.learn, job.run.folder / name

    def make() -> FoldedMeans | NeuronMeans:
        progress = run.reporter.progress
        if folds:
            return collect_by_fold(lm, prompts, folds, protocol=protocol, batch_size=batch_size, progress=progress)
        return collect_means(lm, prompts, protocol=protocol, batch_size=batch_size, progress=progress)

    return run.stage(
        name,
        title,
        inputs={
            **inputs,
            "prompts": job.data.digests["learn_prompts"],
            "protocol": protocol,
            "batch_size": batch_size,
            "folds": folds,
        },
        files=folded_files(stem, folds),
        make=make,
        write=lambda means: means.save(stem),
        load=lambda: FoldedMeans.load(stem, folds),
    )


def prepare_judge(job: Job, seed: int) -> TrainedScorer:
    """The stage `judge` of a run: a scorer trained on comments that the direction never saw."""
    data = job.data
    return job.run.value(
        "judge",
        "Independent judge from other comments",
        TrainedScorer,
        inputs={"comments": data.digests["judge_comments"], "seed": seed},
        make=lambda: TrainedScorer.fit(data.judge_texts, [int(label) for label in data.judge_labels], seed=seed),
    )
