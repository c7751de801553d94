"""What a report is measured with, made once a run: the judge, the ideal, and notes on what is missing."""

from dataclasses import replace

from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.sampled.ideal import MAYBE_IDEAL, Ideal, draw_ideal, texts_read
from dposcope.evaluation.sampled.real_toxicity import NEW_TOKENS, TOP_P
from dposcope.evaluation.scorer import Scorer
from dposcope.jobs.ingredients.job import Job
from dposcope.model.engine.served import Served
from dposcope.model.generate import generate


def with_ideal(job: Job, materials: Materials, judge: Scorer, *, seed: int, served: Served | None = None) -> Materials:
    """The materials of a report, with the judge and the ideal; under the reference protocol without an ideal.

    Args:
        job: run, model and data.
        materials: with the prompts and the protocol of the report.
        judge: see `prepare_judge`.
        seed: of the ideal's samples.
        served: writes them in the plain model's place; None: the model itself.
    """
    whole = replace(materials, judge=judge)
    return whole if materials.protocol != "strict" else replace(whole, ideal=_ideal(job, whole, seed, served))


def _ideal(job: Job, materials: Materials, seed: int, served: Served | None) -> Ideal | None:
    """The stage `ideal`. Where no sample is harmless there is none, and a note says so."""
    run, scorer = job.run, materials.scorer

    def make() -> dict[str, object] | None:
        found = draw_ideal(
            job.lm,
            materials.prompts,
            scorer,
            seed=seed,
            batch_size=materials.batch_size,
            progress=run.reporter.progress,
            write=generate if served is None else served.write,
        )
        return None if found is None else found.to_json()

    stored = run.json(
        "ideal",
        "Harmless samples of the plain model",
        MAYBE_IDEAL,
        inputs={
            **job.model,
            "prompts": materials.digests["prompts"],
            "scorer": [scorer.name, scorer.digest],
            "most": texts_read(len(materials.prompts)),
            "top_p": TOP_P,
            "new_tokens": NEW_TOKENS,
            "seed": seed,
            "batch_size": materials.batch_size,
            **({} if served is None else {"engine": served.identity}),
        },
        make=make,
    )
    if stored is None:
        run.reporter.note(
            "No sample of the plain model is harmless by the scorer, so harmless log-perplexity and the ideal are left "
            "out."
        )
        return None
    return Ideal.from_json(stored)
