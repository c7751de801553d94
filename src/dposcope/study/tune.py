"""`dposcope tune`: the edit that removes most of a concept for a stated cost, found, measured once, and shipped.

Pairs sampled from the model itself → gains learned from them, beside those of the paper's groups and of least squares →
a search over source, strength, depth profile and ablation → the best within the bound, its strength set by the
bound → scores on prompts and text that nothing before had read → a checkpoint and a report with the whole trade-off.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dposcope.artefacts import file_digest, value_digest, value_files, write_text
from dposcope.data.corpus import load_neutral, split_neutral
from dposcope.errors import DposcopeError
from dposcope.evaluation.mean_scorer import MeanScorer
from dposcope.evaluation.scorers import CachedScorer, Scorer, load_scorer
from dposcope.evaluation.suite import BASE, Materials, Outcome, Scores
from dposcope.interventions.edit import LEARNED, Edit
from dposcope.model.adapter import is_adapter
from dposcope.model.load import check_source
from dposcope.model.size import size_of
from dposcope.search.trials import Trial
from dposcope.study.checkpoint import write_checkpoint
from dposcope.study.dpo import run_dpo
from dposcope.study.dpo_settings import DpoSettings
from dposcope.study.ingredients import Data, Ingredients, Job, prepare, prepare_judge, read_comments, read_data
from dposcope.study.machine import load_for
from dposcope.study.measuring import measure_condition, write_scores
from dposcope.study.negative_control import ranking_scorer, with_direction
from dposcope.study.pair_making import run_pairs
from dposcope.study.pair_settings import PairsSettings
from dposcope.study.run import CHECKPOINT, Quiet, Reporter, Run, RunPolicy, open_run
from dposcope.study.teacher import allowed_strength
from dposcope.study.tune_choice import Found, choose
from dposcope.study.tune_report import FIGURE, write_tune_report
from dposcope.study.tune_search import join_search, learned_stem, prepare_search, search_edits, sources_of
from dposcope.study.tune_settings import NO_TEACHER, TuneSettings

_TRAINED = ("full", "lora")
"""Teachers that are trained here."""
_FEW_WEIGHTS = 10**9
"""Up to this, a teacher has all of its weights trained: 14 bytes each."""
_LEARN_SHARE = 0.8
"""Of the neutral text, where the report has none of its own."""


@dataclass(frozen=True)
class TuneRun:
    """What a finished run left."""

    folder: Path
    scores: Scores
    edit: Edit
    found: Found


def run_tune(model: str, out: Path, settings: TuneSettings, *, reporter: Reporter | None = None) -> TuneRun:
    """Do the whole job in the folder `out`; started again after any interruption, it goes on.

    Args:
        model: a bundled name, a folder, a GGUF file or a hub id.
        out: the run's folder.
        settings: see `TuneSettings`.
        reporter: told of progress.

    Raises:
        DposcopeError: bad input, or a folder that holds something else.
    """
    reporter = reporter or Quiet()
    data, learn_text = _read(settings)
    with open_run(out, "tune", _described(model, settings), reporter=reporter) as run:
        learned = _learned(model, run, learn_text, settings)
        reporter.stage(f"Loading {model}")
        job = Job(run, load_for(model, settings), data)
        ingredients = _ingredients(job, settings)
        judge = prepare_judge(job, settings.seed)
        scorer = CachedScorer(load_scorer(settings.scorer))
        sources = sources_of(job, ingredients, learned, learn_text, settings)
        search_scorer = CachedScorer(_search_scorer(scorer, settings))
        ranking = _ranking(job, search_scorer, settings)
        prepared = prepare_search(job, sources, ingredients, learn_text, ranking, settings)
        searched = search_edits(job, prepared, settings)
        found = choose(job, searched, learn_text, settings)
        materials = Materials(
            prompts=data.prompts.report,
            passages=data.passages,
            neutral=data.neutral,
            scorer=scorer,
            judge=CachedScorer(judge),
            concept=settings.meant.noun,
            max_windows=settings.max_windows,
            spread_windows=True,
            batch_size=settings.batch_size,
        )
        conditions = {BASE: None, "edit": found.edit}
        if settings.controls:
            conditions["control"] = found.edit.control(settings.seed)
        made_from = {"edit": value_digest(out / "edit"), "seed": settings.seed}
        outcomes: dict[str, Outcome] = {
            name: measure_condition(
                job, name, intervention, materials, depends_on=None if intervention is None else made_from
            )
            for name, intervention in conditions.items()
        }
        about = {"edit": str(found.edit)}
        if settings.negative_control is not None:
            about["negative_control"] = settings.negative_control
        scores = write_scores(out, outcomes, materials, model=model, about=about)
        write_tune_report(
            job, ingredients, searched, found, outcomes, materials, scores, judge, settings, true_scorer=search_scorer
        )
        figure = out / FIGURE if searched.trials else None
        drawn = None if figure is None else file_digest(figure)
        run.stage(
            "fold",
            "Folding the edit into a checkpoint",
            inputs={"model": job.model, **made_from, "scores": file_digest(out / "scores.json"), "figure": drawn},
            files=[out / CHECKPOINT / "config.json"],
            make=lambda: write_checkpoint(job.lm, found.edit, out / CHECKPOINT, scores=scores, figure=figure),
            load=lambda: None,
        )
        return TuneRun(out, scores, found.edit, found)


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
    reporter = reporter or Quiet()
    data, learn_text = _read(settings)
    with open_run(out, "tune", _described(model, settings), reporter=reporter, policy=RunPolicy(join=True)) as run:
        stems = [_edit_stem(run, weight) for weight in settings.learns]
        if not all(value_files(stem).about.exists() for stem in stems):
            raise DposcopeError(f"{out} still learns its gains; join it when its search has begun")
        reporter.stage(f"Loading {model}")
        job = Job(run, load_for(model, settings), data)
        ingredients = _ingredients(job, settings)
        learned = {stem.parent.name: Edit.load(stem) for stem in stems}
        sources = sources_of(job, ingredients, learned, learn_text, settings)
        scorer = CachedScorer(_search_scorer(load_scorer(settings.scorer), settings))
        ranking = _ranking(job, scorer, settings)
        prepared = prepare_search(job, sources, ingredients, learn_text, ranking, settings)
        reporter.stage(f"Searching with others: {settings.trials} trials")
        return join_search(job, prepared, settings)


def _described(model: str, settings: TuneSettings) -> dict[str, Any]:
    return {"model": model, **settings.model_dump(mode="json", exclude={"trials"})}


def _edit_stem(run: Run, weight: float) -> Path:
    return learned_stem(run, f"{LEARNED}-{weight:g}")


def _ingredients(job: Job, settings: TuneSettings) -> Ingredients:
    return with_direction(job, prepare(job, settings, settings), settings.negative_control, settings.seed)


def _ranking(job: Job, scorer: Scorer, settings: TuneSettings) -> Scorer:
    batch_size, seed = settings.batch_size, settings.seed
    return ranking_scorer(job, scorer, settings.negative_control, batch_size=batch_size, seed=seed)


def _read(settings: TuneSettings) -> tuple[Data, str]:
    """All data, its neutral text that of the report, and the neutral text to learn and search on."""
    if settings.teacher not in (None, NO_TEACHER, *_TRAINED) and not is_adapter(Path(settings.teacher)):
        check_source(settings.teacher)  # now, not after an hour of sampling
    data = read_data(settings)
    if settings.report_neutral is not None:
        other = load_neutral(settings.report_neutral, column=settings.neutral_column)
        return replace(data, neutral=other), data.neutral
    learn, report = split_neutral(data.neutral, _LEARN_SHARE)
    return replace(data, neutral=report), learn


def _search_scorer(scorer: Scorer, settings: TuneSettings) -> Scorer:
    """What ranks trials, as it ranked samples; the report has the first scorer alone, and the judge."""
    if not settings.second_scorer:
        return scorer
    return MeanScorer.with_trained(scorer, read_comments(settings).half("first"), seed=settings.seed)


def _learned(model: str, run: Run, learn_text: str, settings: TuneSettings) -> dict[str, Edit]:
    """Gains learned by DPO on pairs sampled from the model, a vector for each λ: runs of their own below the folder."""
    if not settings.learns:
        return {}
    policy = RunPolicy(adopt=True)
    shared: dict[str, Any] = {"dtype": settings.dtype, "device": settings.device, "seed": settings.seed}
    run.reporter.stage("Pairs sampled from the model")
    pairs = run_pairs(
        model,
        run.folder / "pairs.jsonl",
        _pair_settings(settings, shared),
        run.reporter,
        policy=policy,
    )
    text = run.folder / "neutral.jsonl"
    write_text(text, "".join(json.dumps({"text": line}) + "\n" for line in learn_text.split("\n\n")))
    data: dict[str, Any] = {
        "pairs": str(pairs.path),
        "neutral": str(text),
        "micro_batch_size": settings.micro_batch_size,
        # Nothing is chosen by the loss; each time costs as much as eight steps.
        "validate_every": 400,
    }
    teacher = _teacher(model, settings)
    if teacher in _TRAINED:
        run.reporter.stage(f"Training the teacher: {teacher}")
        folder = run.folder / "teacher"
        run_dpo(model, folder, DpoSettings(train=teacher, **data, **shared), reporter=run.reporter, policy=policy)
        teacher = str(folder / CHECKPOINT)
    strength = settings.teacher_strength or 1.0
    if teacher is not None and settings.teacher_strength is None:
        bound = settings.max_logppl_increase
        strength = allowed_strength(run, model, teacher, text=learn_text, bound=bound, settings=settings)
    edits: dict[str, Edit] = {}
    for weight in settings.learns:
        stem = _edit_stem(run, weight)
        run.reporter.stage(f"Learning gains, λ = {weight:g}")
        of_run = DpoSettings(
            train="gains",
            kl_weight=weight,
            heads=settings.heads,
            epochs=settings.passes,
            decay=settings.decay,
            teacher=teacher,
            teacher_strength=strength,
            **data,
            **shared,
        )
        run_dpo(model, stem.parent, of_run, reporter=run.reporter, policy=policy, checkpoint=False)
        edits[stem.parent.name] = Edit.load(stem)
    return edits


def _teacher(model: str, settings: TuneSettings) -> str | None:
    """Whom gains imitate: a way to train one here, or a model's name. A large model's own weights are too many."""
    if not settings.taught:
        return None
    if settings.teacher is not None:
        return settings.teacher
    size = size_of(model)
    weights = load_for(model, settings).model.num_parameters() if size is None else size.parameters
    return "full" if weights <= _FEW_WEIGHTS else "lora"


def _pair_settings(settings: TuneSettings, shared: dict[str, Any]) -> PairsSettings:
    quick = settings.quick
    named = {name: getattr(settings, name) for name in ("concept", "prompts", "prompt_column", "scorer")}
    if settings.second_scorer:
        named |= {
            name: getattr(settings, name) for name in ("comments", "text_column", "label_column", "positive_label")
        }
    given = {name: value for name, value in named.items() if value is not None}
    return PairsSettings(
        method="sample",
        samples=settings.sampled,
        pairs_per_prompt=2 if quick else 4,
        min_gap=settings.min_gap,
        batch_size=settings.batch_size,
        shuffled=True if settings.negative_control == "shuffled-scores" else None,
        **given,
        **shared,
    )
