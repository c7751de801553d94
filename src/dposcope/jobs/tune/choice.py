"""The stage `choose` of `dposcope tune`: take the best trial, and make it as strong as all bounds allow.

After scaling, both the cost and the texts are measured again. A trial may write repetitive text when it is made
stronger, and a trial that was made weaker may no longer be the best.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from dposcope.artefacts import text_digest, value_digest, value_files, write_json
from dposcope.evaluation.perplexity import WindowLosses, longest_window, window_losses
from dposcope.evaluation.statistics.comparisons import paired_difference
from dposcope.evaluation.statistics.intervals import Difference, Estimate
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import in_effect
from dposcope.jobs.dpo.training_record import TrainingRecord
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.run import Run
from dposcope.jobs.strength import StrengthSearch, StrengthStep, overflow, search_strength
from dposcope.jobs.tune.negative_control import direction_stem
from dposcope.jobs.tune.search import Searched, learned_digests, learned_stem
from dposcope.jobs.tune.settings import Recipe, source_name
from dposcope.model.chat.prompts import asked_how
from dposcope.protocols import LEAST_ITEMS
from dposcope.reading import read_json
from dposcope.search.family import Point
from dposcope.search.trials import Objective, Written

WINDOWS = 32
"""Windows of 1,024 tokens, or shorter ones of a short text, spread over it, on which the strength is set."""
READINGS, WRITINGS = 4, 3
"""Typical numbers of strengths at which the costs and the texts of one trial are measured, for what is foreseen."""
LOGPPL, KL, HARMLESS = "log-perplexity", "KL", "harmless log-perplexity"
"""Costs of an edit."""
_WEAKER = (0.85, 0.7, 0.5)
"""If the texts at every factor so far are out of bounds, try these shares of the strongest factor within bounds."""
_NARROW = 1.1
"""The strongest factor whose texts are within bounds is found to this ratio."""


@dataclass(frozen=True)
class PassedOver:
    """An edit that is not taken: its texts are out of their bounds, or score no lower than plain. Its cost is within
    bounds, or the edit lies between two of which that is so."""

    point: Point
    written: Written
    """Its texts for the search prompts."""


@dataclass(frozen=True, eq=False)
class ChosenEdit:
    """The edit to ship, and how it was chosen."""

    edit: Edit
    point: Point | None
    """None if no edit passes all bounds: then the edit changes nothing."""
    strength: StrengthSearch | None
    """Search for the factor on gains and ablation, for the chosen or else the last candidate; `chosen` is shipped."""
    written: Written
    """Its texts for the search prompts, measured after scaling."""
    rise: Difference | None = None
    """Rise of log-perplexity on the text that set the strength; None if nothing is shipped."""
    passed_over: tuple[PassedOver, ...] = ()
    by_kl: tuple[float, ...] = ()
    """Factors at which KL was nearest to its bound. Their `increase` is KL, scaled to the bound on log-perplexity."""
    by_harmless: tuple[float, ...] = ()
    """The same for the rise of log-perplexity on harmless texts."""
    harmless_rise: Difference | None = None
    """Rise of log-perplexity on harmless texts; None if nothing is shipped, or there were none."""


def choose(job: Job, searched: Searched, learn_text: str, recipe: Recipe) -> ChosenEdit:
    """The stage `choose`: the best trial within the bounds, as strong as they allow; writes `edit` and `chosen.json`.

    If its texts are out of bounds (see `TextBound`), it is tried weaker. Then come the next trials, as long as their
    score in the search is lower than the lowest score so far. If no trial is left, or none scores lower than the plain
    model, nothing is shipped.

    Args:
        job: run, model and data.
        searched: the search; without trials the only source is taken, at the strength where it starts.
        learn_text: neutral text of the search.
        recipe: what the edit tells of its making.
    """
    run, objective = job.run, searched.objective
    stem, record = run.folder / "edit", run.folder / "chosen.json"

    def write(chosen: ChosenEdit) -> None:
        write_json(record, _to_json(chosen))
        Edit.of(chosen.edit, about=_about(job, searched, chosen, recipe)).save(stem)

    return run.stage(
        "choose",
        "Strength that neutral text allows",
        inputs={
            "model": job.model,
            "trials": [trial.to_json() | {"seconds": 0} for trial in searched.trials],
            "base": asdict(searched.base),
            "sources": learned_digests(run, objective.family.sources),
            "direction": value_digest(direction_stem(run, recipe.control)),
            "text": text_digest(learn_text),
            "prompts": job.data.digests["choose_prompts"],
            "windows": WINDOWS,
            "bound": objective.bound.rise,
            "kl": objective.bound.kl,
            "harmless": objective.bound.harmless,
            "text_bound": asdict(searched.text_bound),
            "quick": not searched.trials,
        },
        files=[*value_files(stem).both, record],
        make=lambda: _choose(job, searched, learn_text),
        write=write,
        load=lambda: _chosen(Edit.load(stem), read_json(record, _Stored)),
        revision=6,
    )


def _choose(job: Job, searched: Searched, learn_text: str) -> ChosenEdit:
    costs = _Costs(job, searched.objective, learn_text)
    passed_over: list[PassedOver] = []
    best: ChosenEdit | None = None
    line: _Line | None = None
    for point, score in _candidates(searched):
        if best is not None and score >= best.written.concept:
            break
        line = _Line(costs, point)
        found = _strongest(searched, line, passed_over)
        if found is None:
            continue
        factor, written = found
        if best is None or written.concept < best.written.concept:
            cost = line.costs[factor]
            best = ChosenEdit(
                searched.objective.family.edit(point.scaled(factor)),
                point.scaled(factor),
                line.chosen(factor),
                written,
                cost.rise,
                by_kl=line.nearest(KL),
                by_harmless=line.nearest(HARMLESS),
                harmless_rise=cost.harmless,
            )
    if best is not None:
        return replace(best, passed_over=tuple(passed_over))
    if line is None:
        return ChosenEdit(Edit(), None, None, searched.base)
    return ChosenEdit(
        Edit(),
        None,
        line.chosen(0.0),
        searched.base,
        passed_over=tuple(passed_over),
        by_kl=line.nearest(KL),
        by_harmless=line.nearest(HARMLESS),
    )


def _strongest(searched: Searched, line: "_Line", passed_over: list[PassedOver]) -> tuple[float, Written] | None:
    """The strongest factor whose cost and texts are within all bounds, with its texts; None if there is none.

    Args:
        searched: the bound on texts.
        line: one trial at several strengths.
        passed_over: gets the edits whose cost is within bounds but whose texts are not.
    """
    looked: dict[float, Written] = {}
    refused: list[float] = []

    def texts(factor: float) -> Written:
        if factor not in looked:
            looked[factor] = searched.objective.write(searched.objective.family.edit(line.point.scaled(factor)))
        return looked[factor]

    def within(factor: float) -> Written | None:
        """Its texts if they are within bounds."""
        written = texts(factor)
        if written.concept < searched.base.concept and searched.text_bound.allows(written):
            return written
        passed_over.append(PassedOver(line.point.scaled(factor), written))
        refused.append(factor)
        return None

    def enough(factor: float) -> bool:
        """Texts out of bounds are not within them where the edit is stronger. Those of a trial were within them in the
        search; where the concept is not lower, texts say nothing about stronger edits."""
        if (factor == 1 and searched.trials) or any(one.concept >= searched.base.concept for one in looked.values()):
            return False
        return not searched.text_bound.allows(texts(factor))

    for factor in line.allowed(enough):
        written = within(factor)
        if written is not None:
            break
        if passed_over[-1].written.concept >= searched.base.concept:
            return None  # weaker, it would do less
    else:
        return None
    # Factors so far are those that the costs were measured at, which may be far apart. Between two that are within
    # bounds, texts are looked at first, as they are what was refused.
    above = min(refused, default=factor)
    while above > _NARROW * factor:
        middle = (above * factor) ** 0.5
        finer = within(middle)
        if finer is None or not line.fits(middle):
            above = middle
        else:
            factor, written = middle, finer
    return factor, written


def _candidates(searched: Searched) -> Iterator[tuple[Point, float]]:
    """Points with their scores in the search, the lowest score first."""
    if not searched.trials:
        name, source = next(iter(searched.objective.family.sources.items()))
        yield Point(name, source.start), 0.0
        return
    for trial in reversed(searched.front):
        assert trial.written is not None  # every trial on the front has texts
        yield trial.point, trial.written.concept


@dataclass(frozen=True)
class _Cost:
    """Cost of one edit."""

    rise: Difference
    """Rise of log-perplexity, nats per token."""
    increase: Difference
    """The cost that is nearest to its bound, scaled to the bound on log-perplexity."""
    by: str = LOGPPL
    """Which cost that is: `LOGPPL`, `KL` or `HARMLESS`."""
    harmless: Difference | None = None
    """Rise of log-perplexity on harmless texts; None: there are none."""


class _Costs:
    """Measures costs: log-perplexity on long windows of neutral text, KL on the windows of the trials, and
    log-perplexity on harmless texts."""

    def __init__(self, job: Job, objective: Objective, text: str) -> None:
        """`text`: the neutral text of the search."""
        self._job, self._objective, self._text = job, objective, text
        self._window = longest_window(job.lm, text, least=LEAST_ITEMS)
        self._base: WindowLosses | None = None
        self._read = self._expected = 0
        self.bound = objective.bound.rise

    def begin(self) -> None:
        """Start another trial: more work for the progress bar."""
        self._expected = self._read + READINGS
        if self._base is None:
            self._expected += 1
            self._base = self._losses()

    def of(self, point: Point) -> _Cost:
        """Cost of the edit at a point of the family."""
        base = self._base
        assert base is not None  # `begin` comes first
        objective = self._objective
        with in_effect(self._job.lm, objective.family.edit(point)):
            edited = self._losses()
            kl = objective.neutral.cost(self._job.lm).divergence
            harmless = None if objective.harmless is None else objective.harmless.rise(self._job.lm)
        if not np.isfinite([*edited.nll, kl.high, 0.0 if harmless is None else harmless.high]).all():
            vocabulary = int(self._job.lm.model.config.get_text_config().vocab_size)
            beyond = overflow(vocabulary, self.bound, len(edited.nll))
            return _Cost(beyond, beyond)
        rise = paired_difference(edited.nll, base.nll, denominators=base.tokens)
        costs = {LOGPPL: rise, KL: self._scaled(kl, objective.bound.kl, rise.n)}
        if harmless is not None:
            costs[HARMLESS] = self._scaled(harmless, objective.bound.harmless, harmless.n)
        nearest = max(costs, key=lambda name: costs[name].high)
        return _Cost(rise, costs[nearest], nearest, harmless)

    def _scaled(self, cost: Difference | Estimate, bound: float, n: int) -> Difference:
        """In units in which its bound is the bound on log-perplexity, so that costs can be compared."""
        unit = self.bound / bound
        return Difference(unit * cost.mean, unit * cost.low, unit * cost.high, n)

    def _losses(self) -> WindowLosses:
        read, self._read = self._read, self._read + 1
        return window_losses(
            self._job.lm,
            self._text,
            window=self._window,
            max_windows=WINDOWS,
            spread=True,
            progress=lambda part, total: self._job.run.reporter.progress(
                read * total + part, max(self._expected, read + 1) * total
            ),
        )


class _Line:
    """One trial at several strengths, with the cost at each factor."""

    def __init__(self, costs: _Costs, point: Point) -> None:
        """Nothing is measured yet."""
        self._costs, self.point = costs, point
        self.costs: dict[float, _Cost] = {}
        """Factor → cost, in the order of measuring."""

    def allowed(self, enough: Callable[[float], bool]) -> Iterator[float]:
        """Factors at which the upper ends of both costs are within their bounds, the strongest first.

        First those that the search for the strongest factor measured, then weaker ones, measured on demand.

        Args:
            enough: see `search_strength`.
        """
        self._costs.begin()
        bound = self._costs.bound
        steps = search_strength(self._increase, bound, enough=enough).steps
        within = sorted({step.strength for step in steps if step.increase.high <= bound}, reverse=True)
        yield from within
        for factor in [share * within[0] for share in _WEAKER if within]:
            if factor < within[-1] and self.fits(factor):
                yield factor

    def fits(self, factor: float) -> bool:
        """Whether the upper ends of all costs are within their bounds; measured on demand."""
        return self._increase(factor).high <= self._costs.bound

    def chosen(self, factor: float) -> StrengthSearch:
        """All measured factors, and the chosen one; 0: none."""
        steps = tuple(StrengthStep(tried, cost.increase) for tried, cost in self.costs.items())
        return StrengthSearch(steps, factor, self._costs.bound)

    def nearest(self, cost: str) -> tuple[float, ...]:
        """Factors at which this cost was the nearest to its bound."""
        return tuple(sorted(factor for factor, found in self.costs.items() if found.by == cost))

    def _increase(self, factor: float) -> Difference:
        cost = self.costs[factor] = self._costs.of(self.point.scaled(factor))
        return cost.increase


def _to_json(chosen: ChosenEdit) -> dict[str, Any]:
    return {
        "point": None if chosen.point is None else asdict(chosen.point),
        "strength": None if chosen.strength is None else asdict(chosen.strength),
        "written": asdict(chosen.written),
        "rise": None if chosen.rise is None else asdict(chosen.rise),
        "passed_over": [asdict(one) for one in chosen.passed_over],
        "by_kl": list(chosen.by_kl),
        "by_harmless": list(chosen.by_harmless),
        "harmless_rise": None if chosen.harmless_rise is None else asdict(chosen.harmless_rise),
    }


@dataclass(frozen=True)
class _Stored:
    """`chosen.json`: a `ChosenEdit` without its edit."""

    point: Point | None
    strength: StrengthSearch | None
    written: Written
    rise: Difference | None
    passed_over: tuple[PassedOver, ...]
    by_kl: tuple[float, ...]
    by_harmless: tuple[float, ...]
    harmless_rise: Difference | None


def _chosen(edit: Edit, stored: _Stored) -> ChosenEdit:
    return ChosenEdit(
        edit,
        stored.point,
        stored.strength,
        stored.written,
        stored.rise,
        stored.passed_over,
        stored.by_kl,
        stored.by_harmless,
        stored.harmless_rise,
    )


def _about(job: Job, searched: Searched, chosen: ChosenEdit, recipe: Recipe) -> dict[str, Any]:
    """Facts for the edit's file and the model card: how the edit was made."""
    point, bound = chosen.point, searched.objective.bound
    return {
        "made by": "dposcope tune",
        "model": job.lm.name,
        "fingerprint": job.model["fingerprint"],
        **asked_how(job.lm),
        **({} if recipe.control is None else {"negative_control": recipe.control}),
        **({} if point is None else asdict(point)),
        "max_logppl_increase": bound.rise,
        "max_kl": bound.kl,
        "max_harmless_increase": bound.harmless,
        "max_phrase_rise": searched.text_bound.most_phrase_rise,
        "least_relevance": searched.text_bound.least_relevance,
        **recipe.search,
        **({} if point is None else _learning(job.run, point.source, recipe)),
        **recipe.data,
    }


def _learning(run: Run, source: str, recipe: Recipe) -> dict[str, Any]:
    """How the gains of a source were learned; empty if they were not learned."""
    training = learned_stem(run, source).with_name("training.json")
    if not training.exists():
        return {}
    record = TrainingRecord.load(training)
    return {
        "kl_weight": record.objective.kl_weight,
        "beta": record.objective.beta,
        "epochs": record.settings.epochs,
        "learning_rate": record.schedule.learning_rate,
        "decay": record.schedule.decay,
        "steps": record.steps,
        "pairs": record.pairs.total,
        **recipe.pairs,
        "kl_on": record.objective.kl_on,
        "heads": record.settings.heads,
        **_teacher(run, record),
    }


def _teacher(run: Run, record: TrainingRecord) -> dict[str, Any]:
    """The teacher of taught gains. A teacher trained in the run's folder is named by its method of training."""
    teacher = record.settings.teacher
    if teacher is None:
        return {}
    own = run.folder / "teacher" / "training.json"
    named = TrainingRecord.load(own).settings.train if own.exists() else source_name(teacher)
    return {"teacher": named, "teacher_strength": record.settings.teacher_strength}
