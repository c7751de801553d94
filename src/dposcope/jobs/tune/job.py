"""`dposcope tune`: find the edit that lowers a concept most within a bound on cost, measure it once, and ship it.

Pairs sampled from the model → gains learned from them; gains of the paper's groups, and of least squares → a search
over source, strength, tilt and ablation → the best trial, as strong as all bounds allow: on neutral text, on the
model's own harmless text, on phrases, repetition and relevance → scores on prompts and text that no step before has
read → a checkpoint, and a report with all trials.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dposcope.artefacts import file_digest, value_digest
from dposcope.data.corpus import load_neutral, split_neutral
from dposcope.errors import DposcopeError, plural
from dposcope.evaluation.conditions.scores import Scores
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.trained_scorer import with_trained
from dposcope.interventions.edit import Edit
from dposcope.interventions.tuned import check_tuned
from dposcope.jobs.finished import CHECKPOINT
from dposcope.jobs.ingredients.data import Data, read_comments, read_data
from dposcope.jobs.ingredients.job import Job, check_fits
from dposcope.jobs.ingredients.prepared import Ingredients, prepare, prepare_judge
from dposcope.jobs.measuring.ideal import with_ideal
from dposcope.jobs.measuring.measure import Condition, measure_all, write_scores
from dposcope.jobs.opening import open_run
from dposcope.jobs.processes.shared_run import open_shared_run
from dposcope.jobs.reporter import Quiet, Reporter
from dposcope.jobs.run import RunPolicy
from dposcope.jobs.tune.choice import ChosenEdit, choose
from dposcope.jobs.tune.learning import TRAINED, already_learned, check_sharing, learn_gains
from dposcope.jobs.tune.negative_control import ranking_scorer, with_direction
from dposcope.jobs.tune.report import FIGURE, advice, write_tune_report
from dposcope.jobs.tune.search import (
    Bounds,
    Ready,
    join_search,
    prepare_search,
    ready,
    search_edits,
    sources_of,
)
from dposcope.jobs.tune.settings import NO_CODES, NO_TEACHER, TuneSettings
from dposcope.model.adapter import is_adapter
from dposcope.model.chat.prompts import asked_by
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import check_source, load_native
from dposcope.neurons.sets import NeuronSet
from dposcope.processes.group import Processes
from dposcope.protocols import LEAST_ITEMS
from dposcope.search.family import Family
from dposcope.search.trials import Bound, Trial
from dposcope.shipping.model_card import write_checkpoint

_LEARN_SHARE = 0.8
"""Of the neutral text, where the report has none of its own."""


@dataclass(frozen=True)
class TuneRun:
    """What a finished run left."""

    folder: Path
    scores: Scores
    edit: Edit
    found: ChosenEdit
    advice: str | None = None
    """What to try where no edit was found; None where one was."""


def run_tune(model: str, out: Path, settings: TuneSettings, *, reporter: Reporter | None = None) -> TuneRun:
    """Do the whole job in the folder `out`; started again after any interruption, it goes on.

    In several processes (`torchrun`, `accelerate launch`) each calls this, and they share the work.

    Args:
        model: a bundled name, a folder, a GGUF file or a hub id.
        out: the run's folder.
        settings: see `TuneSettings`.
        reporter: told of progress.

    Raises:
        DposcopeError: bad input, or a folder that holds something else; or the processes cannot share a batch evenly.
    """
    processes = Processes.joined(settings.device)
    reporter = (reporter if processes.is_main else None) or Quiet()
    check_source(model)
    inputs = read_inputs(settings)
    check_sharing(settings, processes)
    data, learn_text = inputs.data, inputs.learn_text
    free = {"trials": settings.trials}
    read = data.read_prompts(chooses=True)
    described = _described(model, settings)
    with open_shared_run(
        out, "tune", described, processes=processes, free=free, prompts=read, reporter=reporter
    ) as run:
        if settings.learned:  # each step of learning loads the model for itself, and the first takes long
            reporter.stage(f"Loading {model}")
            lm = asked_by(load_native(model, **settings.loading), settings.chat_options)
            check_fits(lm, data, settings, learn_text)
            check_teacher(lm, settings)
            if lm.quantised and settings.needs_numbers:
                raise DposcopeError(f"{NO_CODES}, or load {model} unquantised")
            del lm
        learned = learn_gains(model, run, data.learn, learn_text, settings)
        job = Job.begin(run, model, data, settings, searched=learn_text)
        ingredients = _ingredients(job, settings)
        judge = prepare_judge(job, settings.seed)
        scorer = _search_scorer(data.report.scorer, settings)
        searched = search_edits(job, _ready(job, ingredients, learned, scorer, learn_text, settings), settings.tried)
        found = choose(job, searched, learn_text, settings.recipe)
        asked = replace(data.report, protocol="strict", spread_windows=True)
        materials = with_ideal(job, asked, judge, seed=settings.seed)
        made_from = {"edit": value_digest(out / "edit"), "seed": settings.seed}
        conditions = [Condition("edit", lambda: found.edit, made_from)]
        if settings.controls:
            among = NeuronSet.of(job.lm)
            conditions.append(Condition("control", lambda: found.edit.control(settings.seed, among=among), made_from))
        outcomes = measure_all(job, conditions, materials)
        control = settings.negative_control
        about = {"edit": found.edit.told(job.lm)} | ({} if control is None else {"negative_control": control})
        scores = write_scores(job, outcomes, materials, about=about)
        run.write(
            lambda: write_tune_report(
                job, ingredients, searched, found, outcomes, materials, scores, judge, settings.shown,
                control=control, true_scorer=scorer, own_neutral=settings.neutral is not None,
            )
        )  # fmt: skip
        figure = out / FIGURE if searched.trials else None
        drawn = None if figure is None else file_digest(figure)
        if not job.lm.quantised:
            run.stage(
                "fold",
                "Folding the edit into a checkpoint",
                inputs={"model": job.model, **made_from, "scores": file_digest(out / "scores.json"), "figure": drawn},
                files=[out / CHECKPOINT],
                make=lambda: None,
                write=lambda _: write_checkpoint(job.lm, found.edit, out / CHECKPOINT, scores=scores, figure=figure),
                load=lambda: None,
            )
        return TuneRun(out, scores, found.edit, found, None if found.point else advice(searched, found))


def join_tune(model: str, out: Path, settings: TuneSettings, *, reporter: Reporter | None = None) -> list[Trial]:
    """Take part in the search of a run that another process has begun in `out`, and leave the rest to it.

    Args:
        model: as in that run.
        out: its folder.
        settings: the same.
        reporter: told of progress.

    Returns:
        All trials of the search, whoever made them.

    Raises:
        DposcopeError: there is no such run, its search has not begun, or it has none.
    """
    if settings.quick:
        raise DposcopeError("--quick has no search to join; leave one of them out")
    if not Processes.here().alone:
        raise DposcopeError("--join is for one process beside others; start it without torchrun or accelerate")
    reporter = reporter or Quiet()
    inputs = read_inputs(settings)
    data, learn_text = inputs.data, inputs.learn_text
    with open_run(out, "tune", _described(model, settings), reporter=reporter, policy=RunPolicy(join=True)) as run:
        learned = already_learned(run, settings.learned)
        job = Job.begin(run, model, data, settings)
        ingredients = _ingredients(job, settings)
        scorer = _search_scorer(data.report.scorer, settings)
        prepared = _ready(job, ingredients, learned, scorer, learn_text, settings)
        reporter.stage(f"Searching with others: {settings.trials} trials")
        return join_search(job, prepared, settings.trials)


def _described(model: str, settings: TuneSettings) -> dict[str, Any]:
    return {"model": model, **settings.model_dump(mode="json", exclude={"trials"})}


def _ingredients(job: Job, settings: TuneSettings) -> Ingredients:
    ingredients = prepare(job, settings.direction_spec)
    return with_direction(job, ingredients, settings.negative_control, settings.seed)


def _ready(
    job: Job,
    ingredients: Ingredients,
    learned: dict[str, Edit],
    scorer: Scorer,
    learn_text: str,
    settings: TuneSettings,
) -> Ready:
    """A search that is ready to start."""
    control, windows = settings.negative_control, settings.search_windows
    ranking = ranking_scorer(job, scorer, control, batch_size=settings.batch_size, seed=settings.seed)
    sources = sources_of(job, ingredients, learned, learn_text, computed=settings.computed, windows=windows)
    family = Family(sources, ingredients.direction.vector, job.lm.n_blocks, ablates=settings.ablates)
    bounds = _bounds(settings)
    prepared = prepare_search(
        job,
        family,
        learn_text,
        ranking,
        bounds,
        windows=windows,
        control=control,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    return ready(job, prepared, bounds)


def _bounds(settings: TuneSettings) -> Bounds:
    cost = Bound(settings.kl_bound, settings.max_logppl_increase, settings.max_harmless_increase)
    return Bounds(cost, settings.least_distinct, settings.max_phrase_rise, settings.least_relevance)


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the settings of a search name, read before any model is loaded."""

    data: Data
    """Its neutral text is that of the report."""
    learn_text: str
    """Neutral text to learn and search on."""


def read_inputs(settings: TuneSettings) -> Inputs:
    """Read all files.

    Raises:
        DposcopeError: one is missing or damaged, there are too few prompts, or a teacher is no model.
    """
    if settings.teacher not in (None, NO_TEACHER, *TRAINED) and not is_adapter(Path(settings.teacher)):
        check_source(settings.teacher)  # now, not after an hour of sampling
    data = read_data(settings)
    if len(data.choose) < LEAST_ITEMS:
        raise DposcopeError(
            f"the search has {plural(len(data.choose), 'prompt')}; give more in --prompts, so that it has at least "
            f"{LEAST_ITEMS} and their scores an interval"
        )
    text = load_neutral(settings.learn_text, column=settings.learn_text_column, option="--learn-text-column")
    if settings.neutral is not None:
        return Inputs(data, text)
    learn, report = split_neutral(text, _LEARN_SHARE)
    return Inputs(data.reporting_on(report), learn)


def check_teacher(lm: LanguageModel, settings: TuneSettings) -> None:
    """Refuse a teacher that was not tuned from the model, before pairs are made.

    Args:
        lm: the model; its weights are not read.
        settings: of the search.

    Raises:
        DposcopeError: see `check_tuned`.
    """
    if settings.teacher not in (None, NO_TEACHER, *TRAINED):
        check_tuned(settings.teacher, lm)


def _search_scorer(scorer: Scorer, settings: TuneSettings) -> Scorer:
    """What ranks trials, as it ranked samples; the report has the first scorer alone, and the judge."""
    if not settings.second_scorer:
        return scorer
    return with_trained(scorer, read_comments(settings).half("first"), seed=settings.seed)
