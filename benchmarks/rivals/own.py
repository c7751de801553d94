"""What this project can do without training: `dposcope edit`'s default, its ablation alone, and least squares."""

from functools import cache

import torch
from benchmarks.rivals.lines import Line
from benchmarks.rivals.replaced import Folded

from dposcope.artefacts import text_digest, value_files
from dposcope.interventions.edit import Edit
from dposcope.interventions.least_squares import LeastSquares
from dposcope.neurons.activations import NeuronMeans, recording
from dposcope.neurons.groups import select_fraction
from dposcope.search.divergence import NeutralText
from dposcope.study.choose import default_edit
from dposcope.study.ingredients import Ingredients, Job

_BETA = 0.55
_WINDOWS = 128
"""Of 128 tokens, for the moments on neutral text."""


def default_line(made: Ingredients, mix: str) -> tuple[Line, ...]:
    """The family of `dposcope edit` over its strength: `both` (gains and an ablation) or `ablation`, w = s."""
    selection = select_fraction(made.cosine, made.means.mean, beta=_BETA)
    symbol = "w" if mix == "ablation" else "s"
    return (
        Line(
            "", lambda s: Folded(default_edit(made, selection, mix=mix, strength=s)), symbol=symbol, start=2.0, most=8.0
        ),
    )


def least_squares_line(made: Ingredients, disturbed: NeuronMeans) -> tuple[Line, ...]:
    """The smallest disturbance of neutral text for a share of the largest shift that gains of 0 to 2 can make."""
    problem = LeastSquares.of(made.lm, made.means, made.direction.vector, disturbed=disturbed)
    gains = cache(lambda share: Edit.of(problem.gains(share)))
    return (Line("", lambda share: Folded(gains(share)), symbol="share", start=0.3, most=1.0),)


def neutral_moments(job: Job) -> NeuronMeans:
    """The stage `neutral-means`: moments on the second half of the neutral text, whose beginning is for measuring."""
    stem = job.run.folder / "neutral-means"
    text = job.data.neutral[len(job.data.neutral) // 2 :]

    def make() -> None:
        with recording(job.lm) as seen, torch.no_grad():
            NeutralText.read(job.lm, text, windows=_WINDOWS, length=128, seed=1)
        seen.value({"model": job.lm.name, "fingerprint": job.lm.fingerprint, "text": "neutral"}).save(stem)

    return job.run.stage(
        "neutral-means",
        "Neurons on neutral text",
        inputs={**job.model, "text": text_digest(text), "windows": _WINDOWS},
        files=value_files(stem).both,
        make=make,
        load=lambda: NeuronMeans.load(stem),
    )
