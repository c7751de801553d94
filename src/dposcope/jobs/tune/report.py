"""From a finished tuning to the page that shows it: the edit's page with the search in it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from dposcope.artefacts import library_versions
from dposcope.data.named import BUILTIN
from dposcope.directions.lens import lens
from dposcope.errors import plural
from dposcope.evaluation.numbers import fact, fixed, signed
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.statistics import Estimate, bootstrap_mean
from dposcope.evaluation.suite import BASE, Materials, Outcome, Scores
from dposcope.evaluation.trained_scorer import TrainedScorer
from dposcope.interventions.origin import warning
from dposcope.jobs.edit.report import LABELS, evenly_spaced
from dposcope.jobs.ingredients import Ingredients, Job
from dposcope.jobs.tune.choice import Found
from dposcope.jobs.tune.search import Searched
from dposcope.jobs.tune.settings import TuneSettings
from dposcope.neurons.groups import group_sets
from dposcope.report.edit.page import EditPage, GroupSize, SearchStep, Tradeoff, TriedEdit
from dposcope.report.edit.render import tradeoff_of, write_report
from dposcope.report.figures import save_figure
from dposcope.report.glossary import sentence_case
from dposcope.search.family import NO_GAINS, Point
from dposcope.search.search import front
from dposcope.search.trials import Trial

FIGURE = "tradeoff.png"
"""Of the search, beside the report; as SVG, too."""


def write_tune_report(
    job: Job,
    ingredients: Ingredients,
    searched: Searched,
    found: Found,
    outcomes: Mapping[str, Outcome],
    materials: Materials,
    scores: Scores,
    judge: TrainedScorer,
    settings: TuneSettings,
    *,
    true_scorer: Scorer,
) -> None:
    """Write `report.html` into the run's folder, and the figure of its search.

    Args:
        job: run, model and data.
        ingredients: direction and means.
        searched: trials.
        found: the edit.
        outcomes: what was measured of each condition.
        materials: what it was measured on.
        scores: the same as numbers.
        judge: the independent one.
        settings: of the run.
        true_scorer: that of the search; in a negative control the one whose scores were shuffled.
    """
    direction, gains = ingredients.direction, found.edit.gains
    sets = group_sets(ingredients.cosine, ingredients.means.mean)
    page = EditPage(
        model=scores.model,
        fingerprint=str(job.model["fingerprint"]),
        protocol=scores.protocol,
        edit=str(found.edit),
        scores=scores,
        conditions=[LABELS[name] for name in outcomes],
        samples=evenly_spaced(outcomes, materials),
        lens=lens(job.lm, direction.vector, k=15)[0],
        direction={"kind": direction.kind, "block": direction.block, "norm": direction.norm, **direction.about},
        per_prompt={name: outcome.per_prompt["toxicity"].tolist() for name, outcome in outcomes.items()},
        groups=[]
        if gains is None
        else [GroupSize(group.value, len(neurons), len(neurons & gains.touched)) for group, neurons in sets.items()],
        search=[]
        if found.strength is None
        else [SearchStep(step.strength, step.increase) for step in found.strength.steps],
        bound=settings.max_logppl_increase,
        chosen_strength=None if found.strength is None else found.strength.chosen,
        judge=asdict(judge.quality),
        settings=[(name.replace("_", "-"), fact(value)) for name, value in settings.model_dump(mode="json").items()],
        provenance={
            "dtype": str(job.lm.dtype).removeprefix("torch."),
            "device": job.lm.device.type,
            "scorer": materials.scorer.name,
            "search scorer": searched.objective.scorer.name,
            "seed": str(settings.seed),
            **library_versions(),
        },
        notes=_notes(searched, found, settings, materials),
        command="dposcope tune",
        tradeoff=_tradeoff(searched, found, outcomes, true_scorer),
        passed_over=bool(found.passed_over),
        warning="" if settings.negative_control is None else warning(settings.negative_control),
    )
    write_report(page, job.run.folder / "report.html")
    if page.tradeoff is not None:
        drawn = tradeoff_of(page, page.tradeoff)
        for name in (FIGURE, Path(FIGURE).with_suffix(".svg")):
            save_figure(drawn, job.run.folder / name)


def _tradeoff(
    searched: Searched, found: Found, outcomes: Mapping[str, Outcome], true_scorer: Scorer
) -> Tradeoff | None:
    if not searched.trials:
        return None
    # The figure and the table have log-perplexity as their cost, not the KL that orders the search's own front.
    ahead = front(searched.trials, floor=searched.floor, cost=lambda trial: trial.rise)
    best = {trial.number for trial in ahead}
    prompts = len(searched.objective.prompts)
    written, scorer = found.written, searched.objective.scorer
    return Tradeoff(
        [_tried(trial, prompts, on_front=trial.number in best) for trial in searched.trials],
        searched.base.concept,
        Estimate(written.concept, written.concept_low, written.concept_high, prompts),
        0.0 if found.rise is None else found.rise.mean,
        unseen=bootstrap_mean(true_scorer(outcomes["edit"].continuations)),
        unseen_base=float(true_scorer(outcomes[BASE].continuations).mean()),
        scorer=scorer.name,
        unseen_scorer="" if scorer.name == true_scorer.name else true_scorer.name,
    )


def _tried(trial: Trial, prompts: int, *, on_front: bool) -> TriedEdit:
    written = trial.written
    return TriedEdit(
        "ablation alone" if trial.point.source == NO_GAINS else trial.point.source,
        told(trial.point),
        trial.rise,
        trial.kl,
        None if written is None else Estimate(written.concept, written.concept_low, written.concept_high, prompts),
        None if written is None else written.repetition,
        None if written is None else written.distinct_2,
        on_front,
    )


def told(point: Point) -> str:
    """What a point chose beside its source."""
    parts = [] if point.source == NO_GAINS else [f"strength {fixed(point.strength, 2)}"]
    if point.tilt:
        parts.append(f"tilt {signed(point.tilt, 2)}")
    if point.ablate:
        parts.append(f"ablation w = {fixed(point.ablate, 2)}")
    return ", ".join(parts) or "nothing"


def _advice(searched: Searched, found: Found, settings: TuneSettings) -> str:
    """What may help where nothing ships."""
    helps = ["search without --quick" if settings.quick else "raise --trials"]
    if not found.passed_over:
        helps.insert(0, "raise --max-logppl-increase")
    elif any(searched.floor.excess(one.written)["distinct_2"] > 0 for one in found.passed_over):
        helps.insert(0, "lower --least-distinct")
    return f"{sentence_case(', or '.join(helps))}."


def _notes(searched: Searched, found: Found, settings: TuneSettings, materials: Materials) -> list[str]:
    notes = [
        "The search chose among its trials by their scores on its own prompts, so its value for the winner is "
        "flattered (the winner's curse). What counts is the table: prompts and text that nothing before had read.",
        "Samples are evenly spaced over the prompts, not chosen by their effect.",
        f"Continuations are greedy, 20 tokens long, and scored without their prompt by {materials.scorer.name}.",
    ]
    if settings.negative_control is not None:
        notes.insert(0, warning(settings.negative_control) + " The scores of the table are the true scorer's.")
    if found.point is None:
        notes.append(
            "Nothing that was tried kept every bound and scored lower than the plain model: the edit changes nothing. "
            f"{_advice(searched, found, settings)}"
        )
    silent = [one for one in found.passed_over if not searched.floor.holds(one.written)]
    if silent:
        most = max(one.written.repetition for one in silent)
        least = min(one.written.distinct_2 for one in silent)
        notes.append(
            f"{sentence_case(plural(len(silent), 'edit'))} within the bounds on cost said too "
            f"little, and so weaker or other ones were preferred: repetition within a text up to {fixed(most)} "
            f"(plain {fixed(searched.base.repetition)}), distinct word pairs of all texts down to {fixed(least)} "
            f"(plain {fixed(searched.base.distinct_2)}, --least-distinct {settings.least_distinct:g})."
        )
    if useless := len(found.passed_over) - len(silent):
        notes.append(
            f"{sentence_case(plural(useless, 'edit'))} within every bound scored no lower on the search prompts than "
            f"the plain model ({fixed(searched.base.concept)})."
        )
    by_teacher = set(settings.learned) if settings.taught else set()
    taught = [trial.written for trial in searched.trials if trial.written and trial.point.source in by_teacher]
    mute = sum(not searched.floor.holds(written) for written in taught)
    alone = [name for name in settings.untaught if name in searched.objective.family.sources]
    if alone:
        notes.append(
            "Gains that a teacher taught, as they were learned or weaker, cost too much, said too little or lowered "
            f"nothing, so gains were learned from the pairs alone as well ({alone[0]})."
        )
    elif 2 * mute > len(taught):
        notes.append(
            f"{mute} of {len(taught)} edits with learned gains that kept the bounds on cost said too little: a teacher "
            "may teach them to repeat themselves. Try --teacher none."
        )
    if found.by_kl:
        notes.append(
            f"At {plural(len(found.by_kl), 'strength')} KL came nearer to its bound ({settings.kl_bound:g}) than "
            "log-perplexity; the table of strengths shows KL there, in the unit of the other bound."
        )
    if settings.report_neutral is None:
        notes.append("Log-perplexity is reported on the last fifth of --neutral, which was kept back from the search.")
    sources = (settings.prompts, settings.comments, settings.neutral)
    if any(source is None or source.startswith(BUILTIN) for source in sources):
        notes.append(
            "Built-in data took part: mild texts written for a demonstration. These are not benchmark numbers; "
            "give --prompts, --comments and --neutral for real ones."
        )
    if searched.objective.scorer.name != materials.scorer.name:
        notes.append(f"Samples and trials were ranked by the {searched.objective.scorer.name}.")
    return notes
