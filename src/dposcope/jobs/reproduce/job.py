"""`dposcope reproduce`: the paper's method section from top to bottom, for any models.

Preference pairs (3.1) → DPO with its KL term (3.1, appendix C) → a direction, contributions of all neurons, the four
groups, patching, steering and editing, each measured (3.2, 3.3, 4 to 6) → every table and figure → one report over all
models, studies and protocols.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.estimate.machine import Machine
from dposcope.jobs.estimate.table import hours
from dposcope.jobs.explain.job import run_explain
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.opening import open_run
from dposcope.jobs.pairs.job import run_pairs
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.reporter import Quiet, Reporter
from dposcope.jobs.reproduce.checks import check_steps
from dposcope.jobs.reproduce.estimate import estimate_plan
from dposcope.jobs.reproduce.finished import FinishedRun, Plan
from dposcope.jobs.reproduce.overview import write_overview
from dposcope.jobs.reproduce.plan import PlannedStep, model_folder, plan_reproduction
from dposcope.jobs.reproduce.preset import Preset
from dposcope.jobs.reproduce.settings import ReproduceSettings
from dposcope.jobs.reproduce.time_left import TimeLeft
from dposcope.jobs.reproduce.tiny import TINY, tiny_model
from dposcope.jobs.run import RunPolicy


@dataclass(frozen=True)
class Reproduction:
    """What a finished reproduction left."""

    folder: Path
    steps: list[PlannedStep]
    runs: list[FinishedRun]
    """The explanations, in the order of the plan."""


def run_reproduce(
    models: Sequence[str],
    out: Path,
    preset: Preset,
    settings: ReproduceSettings,
    *,
    raw: bool = False,
    reporter: Reporter | None = None,
    borrow: tuple[Path, ...] = (),
) -> Reproduction:
    """Do all steps that are not done, and write the report; interrupted, it goes on.

    Args:
        models: what to study; empty: the preset's.
        out: the folder of all.
        preset: what is done.
        settings: the user's data and machine.
        raw: write offensive words as they are.
        reporter: told of progress.
        borrow: folders of other runs, whose stages explanations may take.

    Raises:
        DposcopeError: bad input, or a folder that holds something else or is in use.
    """
    reporter = reporter or Quiet()
    # Bad input is told before anything is written, and before anything takes long.
    asked = plan_reproduction(models, out, preset, settings, raw=raw)
    check_steps([one.step for one in asked if not one.done])
    with open_run(out, "reproduce", {"preset": preset.name}, reporter=reporter, policy=RunPolicy(adopt=True)):
        if TINY in (models or preset.models):
            tiny_model(out / model_folder(TINY) / "model")
        steps = plan_reproduction(models, out, preset, settings, raw=raw)
        _write_plan(out, preset, steps)
        left = _time_left(steps)
        for number, planned in enumerate(steps, 1):
            step, title = planned.step, f"{number} of {len(steps)}: {planned.name}"
            if planned.done:
                reporter.reused(title)
                continue
            reporter.stage(title)
            if left is not None and left.seconds is not None:
                reporter.step(f"{title}; about {hours(left.seconds)} left in all")
            policy = RunPolicy(adopt=True, borrow=_alike(planned, steps) + borrow)
            match step.settings:
                case PairsSettings():
                    run_pairs(step.model, step.pairs, step.settings, reporter, policy=policy)
                case DpoSettings():
                    run_dpo(step.model, step.folder, step.settings, reporter=reporter, policy=policy)
                case ExplainSettings():
                    (dpo,) = step.after
                    run_explain(
                        step.model, dpo.explained, step.folder, step.settings, raw=raw, reporter=reporter, policy=policy
                    )
            if left is not None:
                left.finished(planned.name)
        reporter.stage("Report over all")
        explained = [one for one in steps if one.step.command == "explain"]
        runs = [
            FinishedRun.read(one.step.folder, model=one.name.partition("/")[0], study=one.step.study.name)
            for one in explained
        ]
        write_overview(out, runs, title=preset.title, raw=raw)
    return Reproduction(out, plan_reproduction(models, out, preset, settings, raw=raw), runs)


def _time_left(steps: Sequence[PlannedStep]) -> TimeLeft | None:
    """None where nothing is left: to measure the machine takes a second."""
    to_do = [one.step for one in steps if not one.done]
    return TimeLeft(estimate_plan(steps, Machine.measured(to_do[0].settings.device))) if to_do else None


def _alike(planned: PlannedStep, steps: Sequence[PlannedStep]) -> tuple[Path, ...]:
    """Folders of other steps of the same command: what one explanation measured of the plain model, others take."""
    return tuple(
        one.step.folder for one in steps if one.step.command == planned.step.command and one.name != planned.name
    )


def _write_plan(out: Path, preset: Preset, steps: Sequence[PlannedStep]) -> None:
    Plan(
        preset.name,
        preset.title,
        [one.name for one in steps],
        [one.step.folder.relative_to(out).as_posix() for one in steps if one.step.command == "explain"],
    ).save(out)
