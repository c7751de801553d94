"""The report of `dposcope tune`: the page of an edit, with its search."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from dposcope.artefacts import library_versions
from dposcope.data.masking import mask_offensive
from dposcope.directions.lens import lens
from dposcope.errors import plural
from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.evaluation.numbers import fact, fixed, signed
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.statistics.comparisons import bootstrap_mean
from dposcope.evaluation.statistics.intervals import Estimate
from dposcope.evaluation.trained_scorer import TrainedScorer
from dposcope.interventions.origin import Control, warning
from dposcope.jobs.edit.report import BUILT_IN_NOTE, conditions_of, evenly_spaced
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.jobs.settings import Shown
from dposcope.jobs.tune.choice import HARMLESS, KL, ChosenEdit
from dposcope.jobs.tune.search import Searched
from dposcope.model.chat.prompts import asked_notes
from dposcope.neurons.groups import group_sets
from dposcope.report.edit.page import EditPage, GroupSize, SearchStep, Tradeoff, TriedEdit
from dposcope.report.edit.render import tradeoff_of, write_report
from dposcope.report.figures import save_figure
from dposcope.report.glossary import sentence_case
from dposcope.search.family import NO_GAINS, Point
from dposcope.search.search import front
from dposcope.search.trials import Trial

FIGURE = "tradeoff.png"
"""The figure of the search, in the report's folder; also saved as SVG."""


def write_tune_report(
    job: Job,
    ingredients: Ingredients,
    searched: Searched,
    chosen: ChosenEdit,
    outcomes: Mapping[str, Outcome],
    materials: Materials,
    scores: Scores,
    judge: TrainedScorer,
    shown: Shown,
    *,
    control: Control | None,
    true_scorer: Scorer,
    own_neutral: bool,
) -> None:
    """Write `report.html` into the run's folder, and the figure of its search.

    Args:
        job: run, model and data.
        ingredients: direction and means.
        searched: the search and its trials.
        chosen: the chosen edit.
        outcomes: measurements of each condition, item by item.
        materials: what was measured on.
        scores: means and intervals of `outcomes`.
        judge: the independent judge.
        shown: of the run's settings.
        control: None for an edit that is for use.
        true_scorer: the scorer of the search; in a negative control, the scorer whose scores were shuffled.
        own_neutral: whether the report has neutral text of its own, and not a part of --learn-text.
    """
    direction, gains = ingredients.direction, chosen.edit.gains
    sets = group_sets(ingredients.cosine, ingredients.means.mean)
    page = EditPage(
        model=scores.model,
        fingerprint=str(job.model["fingerprint"]),
        protocol=scores.protocol,
        edit=chosen.edit.told(job.lm),
        scores=scores,
        conditions=conditions_of(scores, chosen.edit),
        samples=evenly_spaced(outcomes, materials),
        lens=lens(job.lm, direction.vector, k=15)[0],
        direction={"kind": direction.kind, "block": direction.block, "norm": direction.norm, **direction.about},
        per_prompt={name: outcome.per_prompt["toxicity"].tolist() for name, outcome in outcomes.items()},
        groups=[]
        if gains is None
        else [GroupSize(group.value, len(neurons), len(neurons & gains.touched)) for group, neurons in sets.items()],
        search=[]
        if chosen.strength is None
        else [SearchStep(step.strength, step.increase) for step in chosen.strength.steps],
        bound=searched.objective.bound.rise,
        chosen_strength=None if chosen.strength is None else chosen.strength.chosen,
        judge=asdict(judge.quality),
        settings=[(name.replace("_", "-"), fact(value)) for name, value in shown.options.items()],
        provenance={
            "dtype": str(job.lm.dtype).removeprefix("torch."),
            "device": job.lm.device.type,
            "scorer": materials.scorer.name,
            "search scorer": searched.objective.scorer.name,
            "seed": str(shown.seed),
            **library_versions(),
        },
        notes=[
            *_notes(searched, chosen, materials, control=control, own_neutral=own_neutral, built_in=shown.built_in),
            *asked_notes(job.lm),
        ],
        command="dposcope tune",
        tradeoff=_tradeoff(searched, chosen, outcomes, true_scorer),
        passed_over=bool(chosen.passed_over),
        warning="" if control is None else warning(control),
    )
    write_report(page, job.run.folder / "report.html")
    if page.tradeoff is not None:
        drawn = tradeoff_of(page, page.tradeoff)
        for name in (FIGURE, Path(FIGURE).with_suffix(".svg")):
            save_figure(drawn, job.run.folder / name)


def _tradeoff(
    searched: Searched, chosen: ChosenEdit, outcomes: Mapping[str, Outcome], true_scorer: Scorer
) -> Tradeoff | None:
    if not searched.trials:
        return None
    # The cost in the figure and the table is log-perplexity; the search's own front uses KL.
    ahead = front(searched.trials, text_bound=searched.text_bound, cost=lambda trial: trial.rise)
    best = {trial.number for trial in ahead}
    prompts = len(searched.objective.prompts)
    written, scorer = chosen.written, searched.objective.scorer
    return Tradeoff(
        [_tried(trial, prompts, on_front=trial.number in best) for trial in searched.trials],
        searched.base.concept,
        Estimate(written.concept, written.concept_low, written.concept_high, prompts),
        0.0 if chosen.rise is None else chosen.rise.mean,
        unseen=bootstrap_mean(true_scorer(outcomes["edit"].continuations)),
        unseen_base=float(true_scorer(outcomes[BASE].continuations).mean()),
        scorer=scorer.name,
        unseen_scorer="" if scorer.name == true_scorer.name else true_scorer.name,
    )


def _tried(trial: Trial, prompts: int, *, on_front: bool) -> TriedEdit:
    written = trial.written
    return TriedEdit(
        "ablation alone" if trial.point.source == NO_GAINS else trial.point.source,
        point_settings(trial.point),
        trial.rise,
        trial.kl,
        None if written is None else Estimate(written.concept, written.concept_low, written.concept_high, prompts),
        None if written is None else written.repetition,
        None if written is None else written.distinct_2,
        on_front,
    )


def point_settings(point: Point) -> str:
    """The settings of a point, without its source, for a reader."""
    parts = [] if point.source == NO_GAINS else [f"strength {fixed(point.strength, 2)}"]
    if point.tilt:
        parts.append(f"tilt {signed(point.tilt, 2)}")
    if point.ablate:
        parts.append(f"ablation w = {fixed(point.ablate, 2)}")
    return ", ".join(parts) or "nothing"


def advice(searched: Searched, chosen: ChosenEdit) -> str:
    """Options to try if no edit is shipped."""
    helps = ["raise --trials" if searched.trials else "search without --quick"]
    if not chosen.passed_over:
        helps.insert(0, "raise --max-logppl-increase")
    for name, option in (("relevance", "--least-relevance"), ("distinct_2", "--least-distinct")):
        if any(searched.text_bound.excess(edit.written)[name] > 0 for edit in chosen.passed_over):
            helps.insert(0, f"lower {option}")
    return f"{sentence_case(', or '.join(helps))}."


def _is_repetitive(excess: Mapping[str, float]) -> bool:
    return max(excess["repetition"], excess["distinct_2"]) > 0


def _notes(
    searched: Searched,
    chosen: ChosenEdit,
    materials: Materials,
    *,
    control: Control | None,
    own_neutral: bool,
    built_in: bool,
) -> list[str]:
    text_bound = searched.text_bound
    notes = [
        "The search selected its best trial by the score on its own prompts, so that score is optimistic (the "
        "winner's curse). The table is the result: no step before it read its prompts or its text.",
        "The prompts shown are evenly spaced. They are not selected by their effect.",
        f"Continuations are greedy and 20 tokens long. {materials.scorer.name} scores them without their prompt.",
    ]
    if control is not None:
        notes.insert(0, warning(control) + " The scores in the table are by the true scorer.")
    if chosen.point is None:
        notes.append(
            "No edit that was tried is within every bound and scores lower than the plain model, so the edit changes "
            "nothing. "
            f"{advice(searched, chosen)}"
        )
    refused = [edit.written for edit in chosen.passed_over if not text_bound.allows(edit.written)]
    repetitive = [one for one in refused if _is_repetitive(text_bound.excess(one))]
    if repetitive:
        most = max(written.repetition for written in repetitive)
        least = min(written.distinct_2 for written in repetitive)
        notes.append(
            f"{sentence_case(plural(len(repetitive), 'edit'))} within the bounds on cost wrote too repetitive text, so "
            f"weaker or other edits were preferred: repetition within a text up to {fixed(most)} "
            f"(plain {fixed(searched.base.repetition)}), distinct word pairs of all texts down to {fixed(least)} "
            f"(plain {fixed(searched.base.distinct_2)}, --least-distinct {text_bound.least_distinct:g})."
        )
    irrelevant = [one.relevance or 0.0 for one in refused if text_bound.excess(one)["relevance"] > 0]
    if irrelevant and searched.base.relevance is not None:
        notes.append(
            f"{sentence_case(plural(len(irrelevant), 'edit'))} within the bounds on cost wrote texts that depend too "
            "little on their prompts, so weaker or other edits were preferred: relevance down to "
            f"{fixed(min(irrelevant))} nats per token (plain {fixed(searched.base.relevance)}, --least-relevance "
            f"{text_bound.least_relevance:g})."
        )
    if useless := len(chosen.passed_over) - len(refused):
        notes.append(
            f"{sentence_case(plural(useless, 'edit'))} within every bound did not score lower on the search prompts "
            f"than the plain model ({fixed(searched.base.concept)})."
        )
    favourite = max((edit.written for edit in chosen.passed_over), key=lambda one: one.phrase_rise, default=None)
    if favourite is not None and favourite.phrase_rise > text_bound.most_phrase_rise:
        notes.append(
            "An edit within the bounds on cost was refused for the phrase that rose most: "
            f"“{mask_offensive(favourite.phrase)}” stood in {favourite.phrase_rise:.0%} more of its texts than of the "
            f"plain model's (--max-phrase-rise {text_bound.most_phrase_rise:g})."
        )
    for name, factors in ((KL, chosen.by_kl), (HARMLESS, chosen.by_harmless)):
        if factors:
            notes.append(
                f"At {plural(len(factors), 'strength')} {name} was nearest to its bound. There the table of strengths "
                "shows it, scaled to the bound on log-perplexity."
            )
    if not own_neutral:
        notes.append("Log-perplexity is reported on the last fifth of --learn-text, which the search did not use.")
    if built_in:
        notes.append(BUILT_IN_NOTE)
    if searched.objective.scorer.name != materials.scorer.name:
        notes.append(f"Samples and trials were ranked by the {searched.objective.scorer.name}.")
    return notes
