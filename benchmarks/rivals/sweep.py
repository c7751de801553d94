"""One rival's sweep: strengths placed, each measured once on the report's prompts and text.

Every measured strength is a stage of the run, so a killed sweep goes on where it was. A rival of several lines scouts
each at one cost, and spends what is left on the line that did best there, judged on the report's own prompts: that is
to the advantage of rivals with many lines. An edit given once is one line, on which nothing is chosen but strength.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from benchmarks.rivals.compare import Spot, best_at
from benchmarks.rivals.lines import Line, Rival
from benchmarks.rivals.placing import TARGETS, bracket, strengths_at

from dposcope.artefacts import write_json
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.perplexity import WindowLosses, window_losses
from dposcope.interventions.assign import Assign
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.measuring.measure import file_name, measure_condition
from dposcope.model.frames import Positions
from dposcope.model.hooks import Intervention
from dposcope.reading import read_object

SINGLE = 5
"""Evaluations of a line placed by cost, where it is a rival's only one: four costs need no more."""


@dataclass(frozen=True, eq=False)
class Measured:
    """One evaluation."""

    line: str
    symbol: str
    strength: float
    outcome: Outcome

    @property
    def label(self) -> str:
        """Like `block 9, α = 0.2`."""
        setting = f"{self.symbol} = {self.strength:g}"
        return f"{self.line}, {setting}" if self.line else setting


@dataclass(frozen=True, eq=False)
class Sweep:
    """All evaluations of a rival."""

    rival: Rival
    measured: list[Measured]
    base: Outcome
    """The plain model, its log-perplexity measured as the rival's."""

    @property
    def lines(self) -> list[list[Spot]]:
        """For `compare`."""
        plain = Spot(0.0, values_of(self.base), BASE)
        names = dict.fromkeys(one.line for one in self.measured)
        return [[plain, *(self._spot(one) for one in self._of(name))] for name in names] or [[plain]]

    def _of(self, name: str) -> list[Measured]:
        return sorted((one for one in self.measured if one.line == name), key=lambda one: one.strength)

    def _spot(self, one: Measured) -> Spot:
        return Spot(rise(one.outcome.losses, self.base.losses), values_of(one.outcome), one.label)


@dataclass(frozen=True, eq=False)
class Bench:
    """What all sweeps share."""

    job: Job
    materials: Materials
    base: Outcome
    placing_windows: int
    evaluations: int
    """Most of one rival."""
    done: list[Sweep] = field(default_factory=list[Sweep])

    @cached_property
    def placing_base(self) -> WindowLosses:
        """The plain model on the windows that place strengths, read once for all lines."""
        return _read(self, None, placing=True)


def values_of(outcome: Outcome) -> dict[str, np.ndarray]:
    """Measure → values per item, F1 among them."""
    return {**outcome.per_prompt, "f1": outcome.f1}


def rise(losses: WindowLosses, base: WindowLosses) -> float:
    """Of log-perplexity, nats per token."""
    return float((losses.nll - base.nll).sum() / base.tokens.sum())


def sweep(bench: Bench, rival: Rival, *, ended: Callable[[Sequence[Sweep]], None]) -> Sweep:
    """Measure a rival.

    Args:
        bench: model, data and budget.
        rival: what to measure.
        ended: called with all sweeps, this one as far as it is, after each evaluation.
    """
    measured: list[Measured] = []

    def evaluate(line: Line, strengths: Sequence[float]) -> None:
        for strength in strengths:
            if len(measured) < bench.evaluations and not any(
                (one.line, one.strength) == (line.name, strength) for one in measured
            ):
                outcome = _outcome(bench, rival, line, strength)
                measured.append(Measured(line.name, line.symbol, strength, outcome))
                ended([*bench.done, Sweep(rival, measured, bench.base)])

    given = [line for line in rival.lines if line.strengths is not None]
    placed = [line for line in rival.lines if line.strengths is None]
    for line in given:
        evaluate(line, line.strengths or ())
    for line in placed:
        evaluate(line, line.always)
    if len(placed) == 1:
        count = min(SINGLE, bench.evaluations) - len(placed[0].always)
        if count > 0:
            evaluate(placed[0], strengths_at(_costs(bench, rival, placed[0]), TARGETS[:count]))
    elif placed:
        _scout(bench, rival, placed, evaluate, measured)
    return Sweep(rival, measured, bench.base)


def _scout(
    bench: Bench,
    rival: Rival,
    lines: Sequence[Line],
    evaluate: Callable[[Line, Sequence[float]], None],
    measured: list[Measured],
) -> None:
    costs = {line.name: _costs(bench, rival, line) for line in lines}
    for line in lines:
        evaluate(line, strengths_at(costs[line.name], TARGETS[:1]))

    def score(line: Line) -> float:
        own = [one for one in measured if one.line == line.name]
        return best_at(Sweep(rival, own, bench.base).lines, TARGETS[0]).score

    best = min(lines, key=score)
    left = max(bench.evaluations - len(measured), 0)
    evaluate(best, strengths_at(costs[best.name], TARGETS[1 : 1 + left]))


def position_zero(bench: Bench, found: Sweep) -> Sweep:
    """The same sweep with log-perplexity as the published code measures it: its windows, edit at position 0."""
    lines = {line.name: line for line in found.rival.lines}

    def losses(name: str, intervention: Intervention | None, made_from: object) -> WindowLosses:
        file = bench.job.run.folder / "position-zero" / f"{file_name(name)}.json"

        def make() -> None:
            read = _read(bench, intervention, protocol_windows="reference")
            write_json(file, {"nll": read.nll.tolist(), "tokens": read.tokens.tolist()})

        stored = bench.job.run.stage(
            f"position-zero-{file_name(name)}",
            f"Log-perplexity as the published code: {name}",
            inputs={**bench.job.model, **_neutral(bench), "made_from": made_from},
            files=[file],
            make=make,
            load=lambda: read_object(file),
        )
        return WindowLosses(np.array(stored["nll"]), np.array(stored["tokens"]))

    base = replace(found.base, losses=losses(BASE, None, None))
    measured: list[Measured] = []
    for one in found.measured:
        assigned = lines[one.line].at(one.strength)
        if not isinstance(assigned, Assign):
            raise DposcopeError(f"{found.rival.name} acts at all positions; only assigned means act at some")
        intervention = replace(assigned, positions=Positions.FIRST)
        name = condition(found.rival, lines[one.line], one.strength)
        made_from = [name, dict(found.rival.depends_on)]
        measured.append(replace(one, outcome=replace(one.outcome, losses=losses(name, intervention, made_from))))
    named = replace(
        found.rival,
        name=f"{found.rival.name}, cost at position 0",
        what="The same texts; log-perplexity as the published code measures it, the edit at position 0 of each window",
    )
    return Sweep(named, measured, base)


def condition(rival: Rival, line: Line, strength: float) -> str:
    """The name of an evaluation."""
    return ", ".join(filter(None, (rival.name, line.name, f"{line.symbol} = {strength:g}")))


def _outcome(bench: Bench, rival: Rival, line: Line, strength: float) -> Outcome:
    return measure_condition(
        bench.job,
        condition(rival, line, strength),
        line.at(strength),
        bench.materials,
        depends_on={"line": line.name, "strength": strength, "made_from": dict(rival.depends_on)},
    )


def _costs(bench: Bench, rival: Rival, line: Line) -> dict[float, float]:
    """The stage that reads neutral text under several strengths of a line."""
    name = file_name(f"place-{rival.name}-{line.name}")
    file = bench.job.run.folder / "placing" / f"{name}.json"

    def make() -> None:
        tried = bracket(
            lambda strength: rise(_read(bench, line.at(strength), placing=True), bench.placing_base),
            start=line.start,
            most=line.most,
        )
        write_json(file, {"tried": [[strength, cost] for strength, cost in tried.items()]})

    stored = bench.job.run.stage(
        name,
        f"Placing strengths: {rival.name} {line.name}",
        inputs={
            **bench.job.model,
            **_neutral(bench),
            "placing": bench.placing_windows,
            "line": [line.name, line.start, line.most],
            "made_from": dict(rival.depends_on),
        },
        files=[file],
        make=make,
        load=lambda: read_object(file),
    )
    return dict(stored["tried"])


def _neutral(bench: Bench) -> dict[str, object]:
    return {"neutral": bench.materials.digests["neutral"], "windows": bench.materials.max_windows}


def _read(
    bench: Bench, intervention: Intervention | None, *, placing: bool = False, protocol_windows: str = "strict"
) -> WindowLosses:
    def read() -> WindowLosses:
        report = bench.materials.max_windows or 0
        return window_losses(
            bench.job.lm,
            bench.materials.neutral,
            protocol="strict" if protocol_windows == "strict" else "reference",
            skip_windows=report if placing else 0,
            max_windows=bench.placing_windows if placing else report,
        )

    if intervention is None:
        return read()
    with intervention.on(bench.job.lm):
        return read()
