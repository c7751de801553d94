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
from dposcope.search.family import Point
from dposcope.search.trials import Objective, Written
from dposcope.study.ingredients import Job
from dposcope.study.negative_control import direction_stem
from dposcope.study.run import Run
from dposcope.study.strength import StrengthSearch, StrengthStep, overflow, search_strength
from dposcope.study.tune_search import Searched, learned_digests, learned_stem
from dposcope.study.tune_settings import TuneSettings

_WINDOWS = 32
"""Windows of 1,024 tokens, spread over the text, that set the strength of what was found."""
_READINGS = 6
"""How often they are read as a rule, for the progress bar: plain, and at five strengths."""


@dataclass(frozen=True)
class PassedOver:
    """An edit that costs little enough and was not taken, since its texts say too little."""

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
    score in the search is lower than the lowest so far; where none is left, nothing ships.
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
    )


def _found(job: Job, searched: Searched, learn_text: str, settings: TuneSettings) -> Found:
    costs = _Costs(job, searched.objective, learn_text, settings)
    passed_over: list[PassedOver] = []
    best: Found | None = None
    strength: StrengthSearch | None = None
    by_kl: tuple[float, ...] = ()
    for point, score in _candidates(searched, settings):
        if best is not None and score >= best.written.concept:
            break
        rises: dict[float, Difference] = {}
        strength, by_kl = costs.strength(point, rises)
        for factor in _allowed(strength):
            final = point.scaled(factor)
            edit = searched.objective.family.edit(final)
            with folded(job.lm, edit):
                written = searched.objective.write()
            if searched.floor.holds(written):
                if best is None or written.concept < best.written.concept:
                    taken = StrengthSearch(strength.steps, factor, strength.bound)
                    best = Found(edit, final, taken, written, rises[factor], by_kl=by_kl)
                break
            passed_over.append(PassedOver(final, written))
    if best is not None:
        return replace(best, passed_over=tuple(passed_over))
    nothing = None if strength is None else StrengthSearch(strength.steps, 0.0, strength.bound)
    return Found(Edit(), None, nothing, searched.base, None, tuple(passed_over), by_kl)


def _candidates(searched: Searched, settings: TuneSettings) -> Iterator[tuple[Point, float]]:
    """Points and their scores in the search, the lowest first."""
    if settings.quick:
        name, source = next(iter(searched.objective.family.sources.items()))
        yield Point(name, source.start), 0.0
        return
    for trial in reversed(searched.front):
        assert trial.written is not None  # only what was written is on the front
        yield trial.point, trial.written.concept


def _allowed(search: StrengthSearch) -> list[float]:
    """Factors that keep within the bounds on cost, strongest first."""
    return sorted({step.strength for step in search.steps if step.increase.high <= search.bound}, reverse=True)


class _Costs:
    """Long windows of neutral text, and the windows of the trials for KL."""

    def __init__(self, job: Job, objective: Objective, text: str, settings: TuneSettings) -> None:
        """`text` is that of the search."""
        self._job, self._objective, self._text, self._settings = job, objective, text, settings
        self._base: WindowLosses | None = None
        self._read = 0

    def strength(self, point: Point, rises: dict[float, Difference]) -> tuple[StrengthSearch, tuple[float, ...]]:
        """The largest factor on a point at which the upper ends of both costs keep within their bounds.

        Args:
            point: of the family.
            rises: gets factor → rise of log-perplexity.

        Returns:
            The search, and the factors at which KL decided.
        """
        bound, by_kl = self._settings.max_logppl_increase, set[float]()
        # Whichever bound is nearer decides, in the unit of the other.
        unit = bound / self._settings.kl_bound
        self._read = 0
        base = self._base = self._base or self._losses()

        def increase(factor: float) -> Difference:
            with folded(self._job.lm, self._objective.family.edit(point.scaled(factor))):
                edited = self._losses()
                kl = self._objective.neutral.cost(self._job.lm).divergence
            if not np.isfinite(edited.nll).all() or not np.isfinite(kl.high):
                vocabulary = int(self._job.lm.model.config.get_text_config().vocab_size)
                rises[factor] = overflow(vocabulary, bound, len(edited.nll))
                return rises[factor]
            rise = rises[factor] = paired_difference(edited.nll, base.nll, denominators=base.tokens)
            if rise.high >= unit * kl.high:
                return rise
            by_kl.add(factor)
            return Difference(unit * kl.mean, unit * kl.low, unit * kl.high, rise.n)

        found = search_strength(increase, bound)
        return found, tuple(sorted(by_kl))

    def _losses(self) -> WindowLosses:
        read, self._read = self._read, self._read + 1
        return window_losses(
            self._job.lm,
            self._text,
            max_windows=_WINDOWS,
            spread=True,
            progress=lambda part, total: self._job.run.reporter.progress(read * total + part, _READINGS * total),
        )


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
        "second_scorer": settings.two_scorers,
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
    facts = read_json(training)
    return {
        "kl_weight": facts["objective"]["kl_weight"],
        "beta": facts["objective"]["beta"],
        "epochs": settings.passes,
        **{name: facts["schedule"][name] for name in ("learning_rate", "decay")},
        "steps": facts["steps"],
        "pairs": facts["pairs"]["train"] + facts["pairs"]["validation"],
        "samples": settings.sampled,
        "min_gap": settings.min_gap,
        "heads": settings.heads,
        **_teacher(run, facts["settings"]),
    }


def _teacher(run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    """Whom learned gains imitated; a teacher that was trained in the run's folder by how it was trained."""
    if settings["teacher"] is None:
        return {}
    own = run.folder / "teacher" / "training.json"
    named = read_json(own)["train"] if own.exists() else source_name(settings["teacher"])
    return {"teacher": named, "teacher_strength": settings["teacher_strength"]}
