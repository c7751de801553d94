"""The stages of `dposcope tune` from the sources of gains to the trials of the search."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import torch

from dposcope.artefacts import text_digest, value_digest, value_files, write_json
from dposcope.errors import DposcopeError, plural
from dposcope.evaluation.sampled.ideal import MAYBE_IDEAL, Ideal, draw_ideal
from dposcope.evaluation.scorer import Scorer
from dposcope.interventions.edit import Edit
from dposcope.interventions.group_gains import gains_of
from dposcope.interventions.least_squares import LeastSquares
from dposcope.interventions.origin import Control
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.jobs.run import Run
from dposcope.jobs.tune.negative_control import direction_stem
from dposcope.jobs.tune.settings import Method
from dposcope.neurons.activations import NeuronMeans, recording
from dposcope.neurons.groups import select_fraction
from dposcope.protocols import LEAST_ITEMS
from dposcope.reading import read_json
from dposcope.report.table import write_parquet
from dposcope.search.divergence import NeutralText
from dposcope.search.family import Family, Source
from dposcope.search.harmless_text import HarmlessText
from dposcope.search.search import front, search
from dposcope.search.trials import Bound, Objective, TextBound, Trial, Written

LENGTH = 128
"""Tokens of a window of neutral text that a trial reads."""
MOST_HARMLESS = 200
"""Prompts that are sampled once each for harmless texts."""
_BETA = 0.55
"""Fraction of each group that the paper's edit takes."""


@dataclass(frozen=True)
class _PlainTexts(Written):
    """`plain-texts.json`: the texts, and what was measured of them."""

    texts: tuple[str, ...] = ()

    @property
    def written(self) -> Written:
        """What was measured."""
        return Written(**{one.name: getattr(self, one.name) for one in fields(Written)})


@dataclass(frozen=True)
class _Trials:
    """`trials.json`."""

    base: Written
    trials: list[Trial]


@dataclass(frozen=True)
class Bounds:
    """What an edit may cost, and how its texts may change."""

    cost: Bound
    least_distinct: float
    """See `TextBound`."""
    most_phrase_rise: float
    least_relevance: float

    def on_texts(self, plain: Written) -> TextBound:
        """The bound on texts.

        Args:
            plain: what the plain model writes.
        """
        return TextBound(plain, self.least_distinct, self.most_phrase_rise, self.least_relevance)


@dataclass(frozen=True, eq=False)
class Searched:
    """A finished search."""

    objective: Objective
    trials: list[Trial]
    text_bound: TextBound

    @property
    def base(self) -> Written:
        """What the plain model writes to the search prompts."""
        return self.text_bound.plain

    @property
    def front(self) -> list[Trial]:
        """The Pareto front of trials whose texts pass their bound, the cheapest first."""
        return front(self.trials, text_bound=self.text_bound)


def sources_of(
    job: Job,
    ingredients: Ingredients,
    learned: Mapping[str, Edit],
    learn_text: str,
    *,
    computed: Collection[Method],
    windows: int,
) -> dict[str, Source]:
    """All sources of gains; see `neutral_moments` for the stage that it may run.

    Args:
        job: run, model and data.
        ingredients: direction and means.
        learned: name → gains.
        learn_text: neutral text.
        computed: methods of the sources beside the learned ones.
        windows: of neutral text that a trial reads.
    """
    sources = {name: Source.line(edit) for name, edit in learned.items()}
    if "groups" in computed:
        selection = select_fraction(ingredients.cosine, ingredients.means.mean, beta=_BETA)
        sources["groups"] = Source(lambda strength: Edit.of(gains_of(selection, alpha=strength)), start=0.1, most=0.5)
    if "least-squares" in computed:
        disturbed = neutral_moments(job, learn_text, 4 * windows)
        problem = LeastSquares.of(job.lm, ingredients.means, ingredients.direction.vector, disturbed=disturbed)
        sources["least-squares"] = Source(
            cache(lambda share: Edit.of(problem.gains(min(share, 1.0)))), start=0.15, most=0.6
        )
    return sources


def neutral_moments(job: Job, text: str, windows: int) -> NeuronMeans:
    """The stage `neutral-means`: every neuron's moments on windows of 128 tokens of neutral text."""

    def make() -> NeuronMeans:
        with recording(job.lm) as seen, torch.no_grad():
            NeutralText.read(job.lm, text, windows=windows, length=LENGTH, seed=1)
        return seen.value({"model": job.lm.name, "fingerprint": job.lm.fingerprint, "text": "neutral"})

    return job.run.value(
        "neutral-means",
        "Neurons on neutral text",
        NeuronMeans,
        inputs={"model": job.model, "text": text_digest(text), "windows": windows},
        make=make,
    )


@dataclass(frozen=True, eq=False)
class Prepared:
    """A search that is ready to start or to be joined."""

    objective: Objective
    inputs: Mapping[str, Any]
    """Everything that a trial depends on."""
    folder: Path
    """Folder of the journal. It depends on the inputs but not on the number of trials, so more trials continue it."""
    seed: int
    """Of harmless samples and of the order of trials."""


def prepare_search(
    job: Job,
    family: Family,
    learn_text: str,
    scorer: Scorer,
    bounds: Bounds,
    *,
    windows: int,
    control: Control | None,
    batch_size: int | None,
    seed: int,
) -> Prepared:
    """Read the neutral text with the plain model, and collect everything that trials depend on.

    Args:
        job: run, model and data.
        family: the edits to choose from.
        learn_text: neutral text.
        scorer: of what edited models write.
        bounds: of every edit.
        windows: of neutral text that a trial reads.
        control: whose direction the edits are made from; None for the true one.
        batch_size: prompts at a time.
        seed: of windows and samples.
    """
    run, lm = job.run, job.lm
    neutral = NeutralText.read(lm, learn_text, windows=windows, length=LENGTH, seed=seed)
    objective = Objective(
        lm, family, neutral, job.data.choose, scorer, bounds.cost, batch_size, with_relevance=bounds.least_relevance > 0
    )
    inputs = {
        "model": job.model,
        "sources": learned_digests(run, family.sources),
        "names": list(family.sources),
        "direction": value_digest(direction_stem(run, control)),
        "means": value_digest(run.folder / "means"),
        "prompts": job.data.digests["choose_prompts"],
        "text": text_digest(learn_text),
        "scorer": [scorer.name, scorer.digest],
        "bound": asdict(bounds.cost),
        "text_bound": {
            "distinct_2": bounds.least_distinct,
            "phrase": bounds.most_phrase_rise,
            "relevance": bounds.least_relevance,
            "repetition": "upper end of the plain model's interval",
        },
        "windows": windows,
        "ablates": family.ablates,
        "batch_size": batch_size,
        "seed": seed,
    }
    return Prepared(objective, inputs, _journal(run, inputs), seed)


def _journal(run: Run, inputs: Mapping[str, Any]) -> Path:
    return run.folder / "search" / text_digest(json.dumps(inputs, sort_keys=True, default=str))[:16]


def learned_digests(run: Run, sources: Iterable[str]) -> dict[str, str]:
    """Name of each learned source → digest of its gains. All other sources follow from direction and means."""
    return {name: value_digest(stem) for name in sources if value_files(stem := learned_stem(run, name)).about.exists()}


def learned_stem(run: Run, name: str) -> Path:
    """Path of a learned source's gains, without suffix."""
    return run.folder / name / "edit"


def plain_texts(job: Job, prepared: Prepared) -> _PlainTexts:
    """The stage `plain-texts`: what the plain model writes to the search prompts, with its measures."""

    def make() -> dict[str, Any]:
        continued = prepared.objective.continued()
        return asdict(prepared.objective.measured(continued)) | {"texts": [one.text for one in continued]}

    return job.run.json(
        "plain-texts",
        "The plain model on the search prompts",
        _PlainTexts,
        inputs={name: prepared.inputs[name] for name in ("model", "prompts", "scorer", "batch_size")}
        | {"relevance": prepared.objective.with_relevance},
        make=make,
        revision=3,
    )


def harmless_texts(job: Job, prepared: Prepared) -> HarmlessText | None:
    """The stage `harmless-texts`: the ideal of the search prompts.

    Returns:
        None, with a note, where too few samples are harmless for an interval.
    """
    objective = prepared.objective

    def make() -> dict[str, Any] | None:
        drawn = draw_ideal(
            objective.lm,
            objective.prompts,
            objective.scorer,
            most=MOST_HARMLESS,
            seed=prepared.seed,
            batch_size=objective.batch_size,
            progress=job.run.reporter.progress,
        )
        return None if drawn is None else drawn.to_json()

    stored = job.run.json(
        "harmless-texts",
        "Harmless samples of the plain model",
        MAYBE_IDEAL,
        inputs={name: prepared.inputs[name] for name in ("model", "prompts", "scorer", "batch_size", "seed")}
        | {"most": MOST_HARMLESS},
        make=make,
    )
    written = () if stored is None else Ideal.from_json(stored).written
    if len(written) < LEAST_ITEMS:
        job.run.reporter.note(
            f"{plural(len(written), 'sample')} of the plain model {'is' if len(written) == 1 else 'are'} harmless, and "
            f"an interval needs {LEAST_ITEMS}; so no cost is measured on harmless text."
        )
        return None
    return HarmlessText.read(objective.lm, written)


def ready(job: Job, prepared: Prepared, bounds: Bounds) -> "Ready":
    """The search with what the plain model writes, which bounds on texts and on harmless text compare with."""
    plain = plain_texts(job, prepared)
    objective = replace(prepared.objective, harmless=harmless_texts(job, prepared), plain_texts=plain.texts)
    return Ready(replace(prepared, objective=objective), bounds.on_texts(plain.written))


@dataclass(frozen=True, eq=False)
class Ready:
    """A prepared search with its bound on texts."""

    prepared: Prepared
    text_bound: TextBound


def search_edits(job: Job, ready: Ready, trials: int) -> Searched:
    """The stage `search`; writes `trials.json` and `trials.parquet`. With --quick there are no trials."""
    run, prepared = job.run, ready.prepared
    record, table = run.folder / "trials.json", run.folder / "trials.parquet"

    def write(made: list[Trial]) -> None:
        write_parquet(table, trials_table(made))
        write_json(record, {"base": asdict(ready.text_bound.plain), "trials": [trial.to_json() for trial in made]})

    def load() -> Searched:
        return Searched(prepared.objective, read_json(record, _Trials).trials, ready.text_bound)

    title = f"Searching: {plural(trials, 'trial')}" if trials else "No search (--quick)"
    return run.stage(
        "search",
        title,
        inputs={**prepared.inputs, "trials": trials},
        files=[record, table],
        make=lambda: _search(job, ready, trials) if trials else [],
        write=write,
        load=load,
    )


def join_search(job: Job, ready: Ready, trials: int) -> list[Trial]:
    """Run trials in another process than the one that owns the search, until all are done; writes only trials.

    Raises:
        DposcopeError: no process has begun this search.
    """
    if not ready.prepared.folder.exists():
        raise DposcopeError(
            f"no search with these options has begun in {job.run.folder}; wait until it has, or start it without --join"
        )
    return _search(job, ready, trials)


def _search(job: Job, ready: Ready, trials: int) -> list[Trial]:
    objective = ready.prepared.objective
    return search(
        objective.try_out,
        objective.family,
        folder=ready.prepared.folder,
        trials=trials,
        text_bound=ready.text_bound,
        seed=ready.prepared.seed,
        progress=job.run.reporter.progress,
    )


def trials_table(trials: list[Trial]) -> pl.DataFrame:
    """One row per trial: its point, its cost, its texts' measures, its duration."""
    rows: list[dict[str, Any]] = [
        {
            "number": trial.number,
            **asdict(trial.point),
            "kl": trial.kl,
            "logppl_rise": trial.rise,
            "harmless_rise": trial.harmless,
            "within_bounds": trial.within_bounds,
            "concept": None if trial.written is None else trial.written.concept,
            "concept_low": None if trial.written is None else trial.written.concept_low,
            "concept_high": None if trial.written is None else trial.written.concept_high,
            "repetition": None if trial.written is None else trial.written.repetition,
            "distinct_2": None if trial.written is None else trial.written.distinct_2,
            "phrase": None if trial.written is None else trial.written.phrase,
            "phrase_rise": None if trial.written is None else trial.written.phrase_rise,
            "relevance": None if trial.written is None else trial.written.relevance,
            "seconds": trial.seconds,
        }
        for trial in trials
    ]
    texts, whole, flags = {"source", "phrase"}, {"number"}, {"within_bounds"}
    names = list(_row_names())
    return pl.DataFrame(
        rows,
        schema={
            name: pl.String
            if name in texts
            else pl.Int64
            if name in whole
            else pl.Boolean
            if name in flags
            else pl.Float64
            for name in names
        },
    )


def _row_names() -> tuple[str, ...]:
    return (
        *("number", "source", "strength", "tilt", "ablate", "kl", "logppl_rise", "harmless_rise", "within_bounds"),
        *("concept", "concept_low", "concept_high", "repetition", "distinct_2", "phrase", "phrase_rise", "relevance"),
        "seconds",
    )
