"""`dposcope edit`: from a model to a checkpoint with less of a concept, with the proof beside it (paper 6.1).

Direction from comments → neuron means while the model writes → gains by the paper's groups, and
ablation of the direction beside them → the strength that neutral text allows → scores before
and after, with a control → the edit folded into an ordinary checkpoint → a report.
"""

from dataclasses import dataclass
from pathlib import Path

from dposcope.artefacts import file_digest, value_digest
from dposcope.data.concept import TOXICITY
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.suite import BASE, Materials, Outcome, Scores
from dposcope.interventions.edit import Edit
from dposcope.interventions.shipped import edit_file, shipped_edit, shipped_edits
from dposcope.jobs.edit.choice import choose_edit
from dposcope.jobs.edit.report import LEARNED, write_edit_report
from dposcope.jobs.ingredients import Job, prepare, prepare_judge, read_data
from dposcope.jobs.measure import measure_condition, write_scores
from dposcope.jobs.run import CHECKPOINT, Quiet, Reporter, open_run
from dposcope.jobs.settings import EditSettings
from dposcope.model.load import load_native
from dposcope.neurons.groups import select_fraction
from dposcope.shipping.model_card import write_checkpoint


@dataclass(frozen=True)
class EditRun:
    """What a finished run left."""

    folder: Path
    scores: Scores
    edit: Edit


def run_edit(model: str, out: Path, settings: EditSettings, *, reporter: Reporter | None = None) -> EditRun:
    """Do the whole job in the folder `out`; started again after any interruption, it goes on.

    Args:
        model: a bundled name, a folder, a GGUF file or a hub id.
        out: the run's folder.
        settings: see `EditSettings`.
        reporter: told of progress.

    Raises:
        DposcopeError: bad input, or a folder that holds something else.
    """
    reporter = reporter or Quiet()
    data = read_data(settings)
    scorer = load_scorer(settings.scorer)
    with open_run(out, "edit", {"model": model, **settings.model_dump(mode="json")}, reporter=reporter) as run:
        reporter.stage(f"Loading {model}")
        job = Job(run, load_native(model, dtype=settings.dtype, device=settings.device), data)
        ingredients = prepare(
            job,
            settings.direction,
            concept=settings.meant,
            block=settings.direction_block,
            protocol=settings.protocol,
            seed=settings.seed,
            batch_size=settings.batch_size,
        )
        judge = prepare_judge(job, settings.seed)
        selection = select_fraction(
            ingredients.cosine, ingredients.means.mean, beta=settings.beta, ranking=settings.ranking
        )
        choice = choose_edit(job, ingredients, selection, settings)
        materials = Materials(
            prompts=data.prompts.report,
            passages=data.passages,
            neutral=data.neutral,
            scorer=scorer,
            judge=judge,
            concept=settings.meant.noun,
            protocol=settings.protocol,
            max_windows=settings.max_windows,
            batch_size=settings.batch_size,
        )
        conditions = {BASE: None, "edit": choice.edit}
        if settings.controls:
            conditions["control"] = choice.edit.control(settings.seed)
        made_from = {"edit": value_digest(out / "edit"), "seed": settings.seed}
        depends_on = {BASE: None, "edit": made_from, "control": made_from}
        if settings.learned and settings.meant == TOXICITY and model in shipped_edits():
            conditions[LEARNED] = shipped_edit(model)
            depends_on[LEARNED] = {"edit": value_digest(edit_file(model))}
        outcomes: dict[str, Outcome] = {
            name: measure_condition(job, name, intervention, materials, depends_on=depends_on[name])
            for name, intervention in conditions.items()
        }
        scores = write_scores(
            out,
            outcomes,
            materials,
            model=job.lm.name,
            fingerprint=job.lm.fingerprint,
            about={"edit": str(choice.edit)},
        )
        run.stage(
            "fold",
            "Folding the edit into a checkpoint",
            inputs={"model": job.model, **made_from, "scores": file_digest(out / "scores.json")},
            files=[out / CHECKPOINT],
            make=lambda: write_checkpoint(job.lm, choice.edit, out / CHECKPOINT, scores=scores),
            load=lambda: None,
        )
        write_edit_report(job, ingredients, selection, choice, outcomes, materials, scores, judge, settings)
        return EditRun(out, scores, choice.edit)
