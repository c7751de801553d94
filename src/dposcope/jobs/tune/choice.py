"""The stage of `dposcope tune` that chooses the edit to ship: the best trial, as strong as every bound allows.

The cost of a scaled edit is measured again, and so is what it writes: a trial that had enough to say may repeat itself
when it is made stronger, and one that had to be made weaker may have lost its lead to the next.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dposcope.artefacts import read_json, text_digest, value_digest, value_files, write_json
from dposcope.evaluation.perplexity import WindowLosses, window_losses
from dposcope.evaluation.statistics import Difference, paired_difference
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import folded
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.dpo.training_record import TrainingRecord
from dposcope.jobs.ingredients import Job
from dposcope.jobs.run import Run
from dposcope.jobs.strength import StrengthSearch, StrengthStep, overflow, search_strength
from dposcope.jobs.tune.negative_control import direction_stem
from dposcope.jobs.tune.search import Searched, learned_digests, learned_stem
from dposcope.jobs.tune.settings import TuneSettings
from dposcope.search.family import Point
from dposcope.search.trials import Objective, Written

_WINDOWS = 32
"""Windows of 1,024 tokens, spread over the text, that set the strength of what was found."""
_READINGS = 5
"""How often they are read for one trial as a rule, for the progress bar: at so many strengths."""
_WEAKER = (0.85, 0.7, 0.5)
"""Of the strongest factor within the bounds, where texts say too little at all that the search for it met."""


@dataclass(frozen=True)
class PassedOver:
    """An edit that costs little enough and was not taken: its texts say too little, or score no lower."""

    point: Point
    written: Written
    """To the search prompts."""


@dataclass(frozen=True, eq=False)
class Found:
    """The edit, and how it came about."""

    edit: Edit
    point: Point | None
    """None where nothing keeps within all bounds: the edit then leaves the model as it is."""
    strength: StrengthSearch | None
    """The factor on everything, set by the bounds on cost; `chosen` is what ships. Of the last candidate."""
    written: Written
    """What it gives on the search prompts: the value that the search saw."""
    rise: Difference | None = None
    """Of log-perplexity on the text that set the strength; None where nothing ships."""
    passed_over: tuple[PassedOver, ...] = ()
    by_kl: tuple[float, ...] = ()
    """Factors at which KL was nearer to its bound than log-perplexity: their `increase` is KL in the other's unit."""


def choose(job: Job, searched: Searched, learn_text: str, settings: TuneSettings) -> Found:
    """The stage `choose`: the best trial within the bounds, as strong as they allow; writes `edit` and `chosen.json`.

    Where its texts say too little (see `Floor`) it is taken weaker; the next trials take part as long as their own
    score in the search is lower than the lowest so far. Where none is left, or none scores lower than the plain model,
    nothing ships.
    """
    run, objective = job.run, searched.objective
    stem, told = run.folder / "edit", run.folder / "chosen.json"

    def make() -> None:
        found = _found(job, searched, learn_text, settings)
        write_json(told, _told(found))
        Edit.of(found.edit, about=_about(job, found, settings)).save(stem)

    return run.stage(
        "choose",
        "Strength that neutral text allows",
        inputs={
            "model": job.model,
            "trials": [trial.to_json() | {"seconds": 0} for trial in searched.trials],
            "base": asdict(searched.base),
            "sources": learned_digests(run, objective.family.sources),
            "direction": value_digest(direction_stem(run, settings.negative_control)),
            "text": text_digest(learn_text),
            "windows": _WINDOWS,
            "bound": settings.max_logppl_increase,
            "kl": settings.kl_bound,
            "floor": asdict(searched.floor),
            "quick": settings.quick,
        },
        files=[*value_files(stem).both, told],
        make=make,
        load=lambda: _loaded(stem, read_json(told)),
        revision=2,
    )


def _found(job: Job, searched: Searched, learn_text: str, settings: TuneSettings) -> Found:
    costs = _Costs(job, searched.objective, learn_text, settings)
    passed_over: list[PassedOver] = []
    best: Found | None = None
    line: _Line | None = None
    for point, score in _candidates(searched, settings):
        if best is not None and score >= best.written.concept:
            break
        line = _Line(costs, point)
        for factor in line.allowed():
            final = point.scaled(factor)
            edit = searched.objective.family.edit(final)
            with folded(job.lm, edit):
                written = searched.objective.write()
            useful, enough = written.concept < searched.base.concept, searched.floor.holds(written)
            if not (useful and enough):
                passed_over.append(PassedOver(final, written))
            elif best is None or written.concept < best.written.concept:
                rise = line.costs[factor].rise
                best = Found(edit, final, line.chosen(factor), written, rise, by_kl=line.by_kl)
            if not useful or enough:
                break  # weaker, it would do less
    if best is not None:
        return replace(best, passed_over=tuple(passed_over))
    by_kl = () if line is None else line.by_kl
    return Found(
        Edit(), None, None if line is None else line.chosen(0.0), searched.base, None, tuple(passed_over), by_kl
    )


def _candidates(searched: Searched, settings: TuneSettings) -> Iterator[tuple[Point, float]]:
    """Points and their scores in the search, the lowest first."""
    if settings.quick:
        name, source = next(iter(searched.objective.family.sources.items()))
        yield Point(name, source.start), 0.0
        return
    for trial in reversed(searched.front):
        assert trial.written is not None  # only what was written is on the front
        yield trial.point, trial.written.concept


@dataclass(frozen=True)
class _Cost:
    """Of one edit."""

    rise: Difference
    """Of log-perplexity, nats per token."""
    increase: Difference
    """Of log-perplexity, or KL in its unit where that is nearer to its bound."""
    by_kl: bool = False


class _Costs:
    """Long windows of neutral text, and the windows of the trials for KL."""

    def __init__(self, job: Job, objective: Objective, text: str, settings: TuneSettings) -> None:
        """`text` is that of the search."""
        self._job, self._objective, self._text, self._settings = job, objective, text, settings
        self._base: WindowLosses | None = None
        self._read = self._expected = 0
        self.bound = settings.max_logppl_increase

    def begin(self) -> None:
        """Another line: there is more to read than was known before."""
        self._expected = self._read + _READINGS
        if self._base is None:
            self._expected += 1
            self._base = self._losses()

    def of(self, point: Point) -> _Cost:
        """Of the edit at a point of the family."""
        base = self._base
        assert base is not None  # `begin` comes first
        # Whichever bound is nearer decides, in the unit of the other.
        unit = self.bound / self._settings.kl_bound
        with folded(self._job.lm, self._objective.family.edit(point)):
            edited = self._losses()
            kl = self._objective.neutral.cost(self._job.lm).divergence
        if not np.isfinite(edited.nll).all() or not np.isfinite(kl.high):
            vocabulary = int(self._job.lm.model.config.get_text_config().vocab_size)
            beyond = overflow(vocabulary, self.bound, len(edited.nll))
            return _Cost(beyond, beyond)
        rise = paired_difference(edited.nll, base.nll, denominators=base.tokens)
        if rise.high >= unit * kl.high:
            return _Cost(rise, rise)
        return _Cost(rise, Difference(unit * kl.mean, unit * kl.low, unit * kl.high, rise.n), by_kl=True)

    def _losses(self) -> WindowLosses:
        read, self._read = self._read, self._read + 1
        return window_losses(
            self._job.lm,
            self._text,
            max_windows=_WINDOWS,
            spread=True,
            progress=lambda part, total: self._job.run.reporter.progress(
                read * total + part, max(self._expected, read + 1) * total
            ),
        )


class _Line:
    """One trial, stronger and weaker: what each factor on it costs."""

    def __init__(self, costs: _Costs, point: Point) -> None:
        """Nothing is measured yet."""
        self._costs, self._point = costs, point
        self.costs: dict[float, _Cost] = {}
        """Factor → cost, in the order of measuring."""

    def allowed(self) -> Iterator[float]:
        """Factors at which the upper ends of both costs keep within their bounds, the strongest first.

        Those that the search for the strongest met, then some weaker ones, measured as they are asked for.
        """
        self._costs.begin()
        bound = self._costs.bound
        found = search_strength(self._increase, bound)
        met = sorted({step.strength for step in found.steps if step.increase.high <= bound}, reverse=True)
        yield from met
        for factor in [share * met[0] for share in _WEAKER if met]:
            if factor < met[-1] and self._increase(factor).high <= bound:
                yield factor

    def chosen(self, factor: float) -> StrengthSearch:
        """All that was measured, and the factor that is taken; 0: none."""
        steps = tuple(StrengthStep(tried, cost.increase) for tried, cost in self.costs.items())
        return StrengthSearch(steps, factor, self._costs.bound)

    @property
    def by_kl(self) -> tuple[float, ...]:
        """Factors at which KL was nearer to its bound."""
        return tuple(sorted(factor for factor, cost in self.costs.items() if cost.by_kl))

    def _increase(self, factor: float) -> Difference:
        cost = self.costs[factor] = self._costs.of(self._point.scaled(factor))
        return cost.increase


def _told(found: Found) -> dict[str, Any]:
    return {
        "point": None if found.point is None else asdict(found.point),
        "strength": None if found.strength is None else asdict(found.strength),
        "written": asdict(found.written),
        "rise": None if found.rise is None else asdict(found.rise),
        "passed_over": [asdict(one) for one in found.passed_over],
        "by_kl": list(found.by_kl),
    }


def _loaded(stem: Path, stored: Mapping[str, Any]) -> Found:
    return Found(
        Edit.load(stem),
        None if stored["point"] is None else Point(**stored["point"]),
        None if stored["strength"] is None else _search(stored["strength"]),
        Written(**stored["written"]),
        None if stored["rise"] is None else Difference(**stored["rise"]),
        tuple(PassedOver(Point(**one["point"]), Written(**one["written"])) for one in stored["passed_over"]),
        tuple(stored["by_kl"]),
    )


def _search(stored: Mapping[str, Any]) -> StrengthSearch:
    steps = tuple(StrengthStep(step["strength"], Difference(**step["increase"])) for step in stored["steps"])
    return StrengthSearch(steps, stored["chosen"], stored["bound"])


def _about(job: Job, found: Found, settings: TuneSettings) -> dict[str, Any]:
    """What the edit's file and the model card say of its making; data by the names of their files."""
    point, control = found.point, settings.negative_control
    learned = {} if point is None else _learning(job.run, point.source, settings)
    return {
        "made by": "dposcope tune",
        "model": job.lm.name,
        "fingerprint": job.model["fingerprint"],
        **({} if control is None else {"negative_control": control}),
        **({} if point is None else asdict(point)),
        "max_logppl_increase": settings.max_logppl_increase,
        "max_kl": settings.kl_bound,
        "seed": settings.seed,
        **({"quick": True} if settings.quick else {"trials": settings.trials, "methods": settings.methods}),
        **learned,
        "scorer": settings.scorer,
        "second_scorer": settings.second_scorer,
        **{name: source_name(getattr(settings, name)) for name in ("prompts", "comments", "neutral")},
    }


def source_name(source: str | None) -> str:
    """Data as a card may name it: a hub id, or a file without the folders of somebody's machine."""
    if source is None:
        return "built-in"
    return source if source.startswith(("hub:", "builtin")) else Path(source).name


def _learning(run: Run, source: str, settings: TuneSettings) -> dict[str, Any]:
    """How the gains of a source were learned; nothing where they were not."""
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
        "samples": settings.sampled,
        "min_gap": settings.min_gap,
        "heads": settings.heads,
        **_teacher(run, record.settings),
    }


def _teacher(run: Run, settings: DpoSettings) -> dict[str, Any]:
    """Whom learned gains imitated; a teacher that was trained in the run's folder by how it was trained."""
    if settings.teacher is None:
        return {}
    own = run.folder / "teacher" / "training.json"
    named = TrainingRecord.load(own).settings.train if own.exists() else source_name(settings.teacher)
    return {"teacher": named, "teacher_strength": settings.teacher_strength}
