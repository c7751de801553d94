"""Which neurons carry what tuning did: rankings of all neurons, and how much of the change the first of each give.

The change is that of the log-odds of toxic against harmless continuations of the base model itself. Half of the texts
rank the neurons (attribution patching), the other half measure; both halves have prompts of their own.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dposcope.artefacts import tensor_fingerprint, text_digest
from dposcope.errors import DposcopeError
from dposcope.evaluation.sampled.continuations import continuation_losses
from dposcope.evaluation.sampled.ideal import evenly
from dposcope.evaluation.sampled.real_toxicity import TOXIC, sample_texts
from dposcope.interventions.paired.attribution import Attribution, attribution
from dposcope.interventions.paired.interchange import Interchange, Parts
from dposcope.interventions.paired.mediation import Mediation, mediation
from dposcope.jobs.ingredients.job import Job
from dposcope.model.batches import rows_to_read
from dposcope.model.checks.identity import identity
from dposcope.model.generate import Continuation
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.contributions import Contributions
from dposcope.neurons.sets import NeuronSet

MOST_PROMPTS, SAMPLES = 96, 4
"""Prompts that are sampled, and samples of each."""
FRACTIONS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of all neurons, on the curve."""

RANKINGS = {
    "attribution": "by attribution patching",
    "contribution": "by contribution Δ (paper)",
    "matched": "random, with |Δ| like those by attribution",
    "random": "random",
}
"""Ranking → its name for a reader."""


@dataclass(frozen=True)
class CurvePoint:
    """How much of tuning's change the first neurons of a ranking give by interchange."""

    ranking: str
    fraction: float
    """Of all neurons."""
    neurons: int
    share: float
    """Of the change of the log-odds; 1 for all of it."""


@dataclass(frozen=True, eq=False)
class SplitTexts:
    """Continuations that the base model wrote, by what a scorer says of them and by half of the prompts."""

    toxic: tuple[Sequence[Continuation], Sequence[Continuation]]
    """To rank, and to measure."""
    harmless: tuple[Sequence[Continuation], Sequence[Continuation]]

    @property
    def digest(self) -> str:
        """Of all texts."""
        sides = (*self.toxic, *self.harmless)
        return text_digest(*(str([(one.prompt_ids, one.ids) for one in side]) for side in sides))


@dataclass(frozen=True, eq=False)
class Rankings:
    """All neurons in three orders, and a control."""

    effect: Tensor
    """Of attribution patching, `[L, d_mlp]`; below 0: the neuron's change makes toxic text less probable."""
    contribution: Tensor
    """Δ (paper, Eq. 2), `[L, d_mlp]`."""
    seed: int
    """Of random neurons."""
    everything: NeuronSet
    """Every neuron."""

    def first(self, ranking: str, fraction: float) -> NeuronSet:
        """A fraction of all neurons, the first ones of a ranking; at least one.

        Args:
            ranking: a key of `RANKINGS`. `matched` draws random neurons whose |Δ| are like those of the first ones by
                attribution.
            fraction: of all neurons, 0 to 1.
        """
        everything = self.everything
        count = max(1, round(fraction * len(everything)))
        match ranking:
            case "attribution":
                return everything.top(count, by=-self.effect)
            case "contribution":
                return everything.top(count, by=self.contribution)
            case "matched":
                first = everything.top(count, by=-self.effect)
                return first.random_matched(self.seed, by=self.contribution.abs(), among=everything)
            case _:
                stream = torch.Generator().manual_seed(self.seed)
                return everything.top(count, by=torch.rand(self.effect.shape, generator=stream, dtype=torch.float64))


@dataclass(frozen=True, eq=False)
class Carriers:
    """Rankings of all neurons, and the curve of what their first ones give."""

    rankings: "Rankings"
    curve: Sequence[CurvePoint]
    mediation: Mediation
    """Of every neuron's change, on the texts of the curve: its own part, and what comes from before it."""
    texts: tuple[int, int]
    """Toxic and harmless texts that the curve is measured on."""


def find_carriers(
    job: Job, other: LanguageModel, change: Contributions, *, seed: int, batch_size: int | None
) -> Carriers | None:
    """The stages `texts`, `attribution`, `curve` and `mediation`.

    None, with a note, where the base writes texts of one kind only.

    Args:
        job: run, base model and data.
        other: the tuned model.
        change: contributions, the paper's ranking.
        seed: of the samples, and of random rankings.
        batch_size: texts at a time.
    """
    texts = _texts(job, seed, batch_size)
    if texts is None:
        job.run.reporter.note(
            "The base model's samples are not both toxic and harmless in both halves of the prompts, so no neurons are "
            "ranked by attribution."
        )
        return None
    inputs = {**job.model, "tuned": identity(other), "texts": texts.digest}
    effect = job.run.value(
        "attribution",
        "First-order effect of all neurons",
        Attribution,
        inputs=inputs,
        make=lambda: attribution(
            job.lm,
            other,
            texts.toxic[0],
            texts.harmless[0],
            batch_size=min(rows_to_read(batch_size), 8),
            progress=job.run.reporter.progress,
        ),
    )
    rankings = Rankings(effect.effect, change.total, seed, change.everything)
    stored = job.run.json(
        "curve",
        "Neurons by interchange, by three rankings",
        list[CurvePoint],
        inputs={
            **inputs,
            "rankings": tensor_fingerprint({"effect": effect.effect, "contribution": change.total}),
            "fractions": FRACTIONS,
            "seed": seed,
        },
        make=lambda: [asdict(point) for point in _curve(job, other, rankings, texts, batch_size)],
    )
    divided = job.run.value(
        "mediation",
        "A neuron's own change, and what comes from before it",
        Mediation,
        inputs=inputs,
        make=lambda: mediation(
            job.lm,
            other,
            [*texts.toxic[1], *texts.harmless[1]],
            batch_size=min(rows_to_read(batch_size), 8),
            progress=job.run.reporter.progress,
        ),
    )
    measured = len(texts.toxic[1]), len(texts.harmless[1])
    return Carriers(rankings, stored, divided, measured)


@dataclass(frozen=True)
class _Text:
    """A sample in `texts.json`."""

    prompt: int
    prompt_ids: list[int]
    ids: list[int]
    score: float


def _texts(job: Job, seed: int, batch_size: int | None) -> SplitTexts | None:
    """The stage `texts`: samples of the base model, with the score of each."""
    prompts, scorer = job.data.learn, job.data.report.scorer
    rows = evenly(len(prompts), MOST_PROMPTS)

    def make() -> list[dict[str, Any]]:
        written = sample_texts(
            job.lm,
            [prompts[row] for row in rows],
            samples=SAMPLES,
            seed=seed,
            batch_size=batch_size,
            progress=job.run.reporter.progress,
        )
        scores = scorer([one.text for one in written]).tolist()
        return [
            asdict(_Text(place // SAMPLES, one.prompt_ids, one.ids, score))
            for place, (one, score) in enumerate(zip(written, scores, strict=True))
        ]

    stored = job.run.json(
        "texts",
        "Samples of the base model, toxic and harmless",
        list[_Text],
        inputs={
            **job.model,
            "prompts": job.data.digests["learn_prompts"],
            "scorer": [scorer.name, scorer.digest],
            "most": [MOST_PROMPTS, SAMPLES],
            "seed": seed,
        },
        make=make,
    )
    kept = [one for one in stored if one.ids]

    def side(toxic: bool, half: int) -> list[Continuation]:
        return [
            Continuation(one.prompt_ids, one.ids, "")
            for one in kept
            if (one.score >= TOXIC) == toxic and one.prompt % 2 == half
        ]

    found = SplitTexts((side(True, 0), side(True, 1)), (side(False, 0), side(False, 1)))
    return found if all([*found.toxic, *found.harmless]) else None


def _curve(
    job: Job, other: LanguageModel, rankings: Rankings, texts: SplitTexts, batch_size: int | None
) -> list[CurvePoint]:
    written = [*texts.toxic[1], *texts.harmless[1]]
    toxic = len(texts.toxic[1])

    def log_odds(lm: LanguageModel) -> float:
        nll = continuation_losses(lm, written, batch_size=batch_size).nll
        if not np.isfinite(nll).all():
            raise DposcopeError(f"{lm.name} overflows while it reads; give another --dtype")
        return float(np.mean(nll[toxic:]) - np.mean(nll[:toxic]))

    base, tuned = log_odds(job.lm), log_odds(other)
    points: list[CurvePoint] = []
    # All rankings end with the same neurons, all of them.
    known: dict[NeuronSet, float] = {}
    total = len(RANKINGS) * len(FRACTIONS)
    for name in RANKINGS:
        for fraction in FRACTIONS:
            neurons = rankings.first(name, fraction)
            if neurons not in known:
                with Interchange(other, Parts(neurons)).on(job.lm):
                    known[neurons] = log_odds(job.lm)
            share = (known[neurons] - base) / (tuned - base) if tuned != base else 0.0
            points.append(CurvePoint(name, fraction, len(neurons), share))
            job.run.reporter.progress(len(points), total)
    return points
