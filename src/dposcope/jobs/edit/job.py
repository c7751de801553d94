"""`dposcope edit`: from a model to a checkpoint with less of a concept, with the proof beside it (paper 6.1).

Direction from comments → neuron means while the model writes → gains by the paper's groups, and
ablation of the direction beside them → the strength that neutral text allows → scores before
and after, with a control → the edit folded into an ordinary checkpoint → a report.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dposcope.artefacts import file_digest, value_digest
from dposcope.data.concept import TOXICITY
from dposcope.evaluation.conditions.scores import HELD_OUT, Scores
from dposcope.interventions.edit import Edit
from dposcope.interventions.shipped import edit_file, shipped_edit, shipped_edits
from dposcope.jobs.edit.choice import choose_edit
from dposcope.jobs.edit.report import LEARNED, write_edit_report
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.finished import CHECKPOINT
from dposcope.jobs.ingredients.data import Data, read_data
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.ingredients.prepared import prepare, prepare_judge
from dposcope.jobs.measuring.ideal import with_ideal
from dposcope.jobs.measuring.measure import Condition, measure_all, write_scores
from dposcope.jobs.processes.shared_run import open_shared_run
from dposcope.jobs.reporter import Reporter
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.groups import select_fraction
from dposcope.neurons.sets import NeuronSet
from dposcope.processes.group import Processes
from dposcope.shipping.model_card import write_checkpoint


@dataclass(frozen=True)
class EditRun:
    """What a finished run left."""

    folder: Path
    scores: Scores
    edit: Edit


def run_edit(model: str, out: Path, settings: EditSettings, *, reporter: Reporter | None = None) -> EditRun:
    """Do the whole job in the folder `out`; started again after any interruption, it goes on.

    In several processes (`torchrun`, `accelerate launch`) each calls this, and they share the work.

    Args:
        model: a bundled name, a folder, a GGUF file or a hub id.
        out: the run's folder.
        settings: see `EditSettings`.
        reporter: told of progress.

    Raises:
        DposcopeError: bad input, or a folder that holds something else.
    """
    processes = Processes.joined(settings.device)
    data = read_data(settings)
    described = {"model": model, **settings.model_dump(mode="json")}
    read = data.read_prompts(chooses=False)
    with open_shared_run(out, "edit", described, processes=processes, prompts=read, reporter=reporter) as run:
        searched = None if settings.edit_spec.given else data.report.neutral
        job = Job.begin(run, model, data, settings, searched=searched)
        ingredients = prepare(job, settings.direction_spec)
        judge = prepare_judge(job, settings.seed)
        selection = select_fraction(
            ingredients.cosine, ingredients.means.mean, beta=settings.beta, ranking=settings.ranking
        )
        made_by = settings.model_dump(mode="json", exclude={"concept"})  # whose values are in the other settings
        choice = choose_edit(job, ingredients, selection, settings.edit_spec, made_by=made_by)
        materials = with_ideal(job, data.report, judge, seed=settings.seed)
        made_from = {"edit": value_digest(out / "edit"), "seed": settings.seed}
        outcomes = measure_all(job, [*_conditions(job.lm, model, choice.edit, made_from, settings)], materials)
        scores = write_scores(job, outcomes, materials, about={"edit": choice.edit.told(job.lm), **_reused(data)})
        if not job.lm.quantised:
            run.stage(
                "fold",
                "Folding the edit into a checkpoint",
                inputs={"model": job.model, **made_from, "scores": file_digest(out / "scores.json")},
                files=[out / CHECKPOINT],
                make=lambda: None,
                write=lambda _: write_checkpoint(job.lm, choice.edit, out / CHECKPOINT, scores=scores),
                load=lambda: None,
            )
        run.write(
            lambda: write_edit_report(
                job, ingredients, selection, choice, outcomes, materials, scores, judge, settings.shown
            )
        )
        return EditRun(out, scores, choice.edit)


def _reused(data: Data) -> dict[str, bool]:
    """A fact for those who read the scores: whether the prompts that were measured on are those learned from."""
    return {} if set(data.learn).isdisjoint(data.report.prompts) else {HELD_OUT: False}


def _conditions(
    lm: LanguageModel, model: str, edit: Edit, made_from: Mapping[str, Any], settings: EditSettings
) -> Iterator[Condition]:
    """The edit, its control, and the edit that comes with dposcope for this model."""
    yield Condition("edit", lambda: edit, made_from)
    if settings.controls:
        yield Condition("control", lambda: edit.control(settings.seed, among=NeuronSet.of(lm)), made_from)
    if settings.learned and settings.meant == TOXICITY and model in shipped_edits():
        yield Condition(LEARNED, lambda: shipped_edit(model), {"edit": value_digest(edit_file(model))})
