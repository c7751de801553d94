"""The report of `dposcope edit`."""

from collections.abc import Mapping
from dataclasses import asdict, replace

from dposcope.artefacts import library_versions
from dposcope.directions.lens import lens
from dposcope.errors import plural
from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.evaluation.numbers import fact
from dposcope.evaluation.sampled.ideal import IDEAL, evenly
from dposcope.evaluation.trained_scorer import TrainedScorer
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.jobs.edit.choice import GAIN_SHARE, Choice
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.jobs.settings import Shown
from dposcope.model.chat.prompts import asked_notes
from dposcope.neurons.groups import Selection
from dposcope.report.edit.page import Condition, EditPage, GroupSize, Sample, SearchStep
from dposcope.report.edit.render import write_report

LEARNED = "learned"
"""The condition of the edit that comes with dposcope."""

LABELS = {
    BASE: Condition(BASE, "Plain model", "base"),
    "edit": Condition("edit", "Edited", "edit", "the model with the edit of this run"),
    "control": Condition("control", "Control", "control"),
    LEARNED: Condition(
        LEARNED,
        "Learned edit",
        "paper",
        "comes with dposcope; learned by dposcope tune on texts that the model wrote, not on this run's data",
    ),
    IDEAL: Condition(IDEAL, "Ideal", "limit", "the plain model's own samples that score below 0.5"),
}

BUILT_IN_NOTE = (
    "Built-in data was used: mild texts written for a demonstration. These are not benchmark numbers; "
    "give --prompts, --comments and --neutral for real ones."
)

_SAMPLES = 24


def write_edit_report(
    job: Job,
    ingredients: Ingredients,
    selection: Selection,
    choice: Choice,
    outcomes: Mapping[str, Outcome],
    materials: Materials,
    scores: Scores,
    judge: TrainedScorer,
    shown: Shown,
) -> None:
    """Write `report.html` into the run's folder."""
    direction, search = ingredients.direction, choice.search
    gains = choice.edit.gains or Gains.ones(*ingredients.means.mean.shape)
    # The default edit leaves the later half of the blocks to the ablation.
    touched = gains.touched
    page = EditPage(
        model=scores.model,
        fingerprint=str(job.model["fingerprint"]),
        protocol=scores.protocol,
        edit=choice.edit.told(job.lm),
        scores=scores,
        conditions=conditions_of(scores, choice.edit),
        samples=evenly_spaced(outcomes, materials),
        lens=lens(job.lm, direction.vector, k=15)[0],
        direction={"kind": direction.kind, "block": direction.block, "norm": direction.norm, **direction.about},
        per_prompt={name: outcome.per_prompt["toxicity"].tolist() for name, outcome in outcomes.items()},
        groups=[
            GroupSize(group.value, selection.sizes[group], len(chosen & touched))
            for group, chosen in selection.sets.items()
        ],
        search=[] if search is None else [SearchStep(step.strength, step.increase) for step in search.steps],
        bound=None if search is None else search.bound,
        chosen_strength=None if search is None else search.chosen,
        judge=asdict(judge.quality),
        settings=[(name.replace("_", "-"), fact(value)) for name, value in shown.options.items()],
        provenance={
            "dtype": str(job.lm.dtype).removeprefix("torch."),
            "device": job.lm.device.type,
            "scorer": materials.scorer.name,
            "seed": str(shown.seed),
            **library_versions(),
        },
        notes=[*_notes(choice, materials, built_in=shown.built_in), *asked_notes(job.lm)],
    )
    write_report(page, job.run.folder / "report.html")


def conditions_of(scores: Scores, edit: Edit) -> list[Condition]:
    """The conditions of a page; the note of the control says what its edit has in the place of each part."""
    parts = [
        told
        for part, told in (
            (edit.gains, "the same gains shuffled among the neurons of each block"),
            (edit.head_gains, "the same gains of heads shuffled among the channels of each block"),
            (edit.ablations, "a random direction ablated at the same weight"),
        )
        if part
    ]
    control = replace(LABELS["control"], note=", and ".join(parts) or "the plain model, as the edit has no part")
    return [(LABELS | {"control": control})[name] for name in scores.conditions]


def evenly_spaced(outcomes: Mapping[str, Outcome], materials: Materials) -> list[Sample]:
    """Samples of evenly spaced prompts, not selected by their effect."""
    shown = ("none", "edit")
    return [
        Sample(
            materials.prompts[row],
            {name: outcomes[name].continuations[row] for name in shown},
            {name: float(outcomes[name].per_prompt["toxicity"][row]) for name in shown},
        )
        for row in evenly(len(materials.prompts), _SAMPLES)
    ]


def _notes(choice: Choice, materials: Materials, *, built_in: bool) -> list[str]:
    notes = [
        "The prompts shown are evenly spaced. They are not selected by their effect.",
        f"Continuations are greedy and 20 tokens long. {materials.scorer.name} scores them without their prompt.",
    ]
    if built_in:
        notes.append(BUILT_IN_NOTE)
    if choice.search is not None:
        windows = plural(choice.search.steps[0].increase.n, "window")
        where = (
            f"{windows} of the neutral text that are not reported"
            if choice.held_out
            else f"{windows} of the neutral text that overlap the reported text, since it is too short to keep them "
            "apart"
        )
        notes.append(
            f"The strength was set on {where}. There the upper end of the interval of the increase is within the bound."
        )
        if choice.parts == "both":
            notes.append(
                f"At strength s, the direction is ablated with weight w = s from the MLPs of the later half of the "
                f"blocks, and neurons of the earlier half get gains with α = {GAIN_SHARE} s."
            )
    if materials.protocol == "reference":
        notes.append(
            "Reference protocol: prompts are cut to their first 32 tokens and F1 counts the prompt, "
            "as in the published code. Do not compare these numbers with numbers of the strict protocol."
        )
    return notes
