"""What `dposcope evaluate` does."""

from collections.abc import Sequence
from pathlib import Path

from dposcope.evaluation.conditions.scores import BASE
from dposcope.jobs.estimate.measuring import (
    Counted,
    condition,
    counted,
    direction,
    ideal,
    ideal_read,
    loading,
    means,
    small_files,
)
from dposcope.jobs.estimate.start import start
from dposcope.jobs.estimate.work import Running, Stage, Work
from dposcope.jobs.evaluate.job import read_asked
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.ingredients.job import check_fits
from dposcope.jobs.measuring.conditions import ConditionSpec, check_conditions
from dposcope.jobs.opening import check_folder
from dposcope.model.load import check_source


def evaluate_work(model: str, out: Path, settings: EvaluateSettings) -> Work:
    """Check everything that can be checked without weights, and count.

    Args:
        model: its name.
        out: the run's folder.
        settings: of the command.

    Raises:
        DposcopeError: bad input, as of the command itself.
    """
    check_folder(out, "evaluate")
    asked = read_asked(settings)
    started = start(model, settings, settings)
    check_fits(started.lm, asked.data, settings, learns=asked.learns)
    check_conditions(asked.specs, started.lm)
    if settings.fluency_model is not None:
        check_source(settings.fluency_model)
    found = counted(started.lm, asked.data, settings.direction_spec)
    stages = evaluate_stages(started.running, settings, found, asked.specs, stored=started.stored)
    return Work("evaluate", model, started.running, tuple(stages), started.precision)


def evaluate_stages(
    running: Running, settings: EvaluateSettings, data: Counted, specs: Sequence[ConditionSpec], *, stored: int
) -> list[Stage]:
    """All stages.

    Args:
        running: the model.
        settings: of the command.
        data: what is read.
        specs: the conditions beside the plain model.
        stored: bytes of a stored weight.
    """
    batch, spec = settings.batch_size, settings.direction_spec
    samples = settings.rtp_samples if settings.protocol == "rtp" else 0
    held = 2.0 if settings.fluency_model is not None else 1.0
    stages = [loading(running, stored)]
    if any(one.learned for one in specs):
        stages += [direction(running, data.comments, spec), means(running, data.learn, spec)]
    measured = ideal(running, data, batch=batch)
    measured.append(condition(running, data, BASE, batch=batch, samples=samples, held=held))
    for one in specs:
        kinds = {part.kind for part in one.parts}
        second = 1.0 if kinds & {"model", "interchange"} else 0.0
        along = 2 if "interchange" in kinds else 1
        measured.append(
            condition(running, data, one.name, batch=batch, models=along, held=held + second, samples=samples)
        )
    if settings.engine != "local":
        measured = [one.written_elsewhere() for one in measured]
    return [*stages, *measured, *ideal_read(running, data, batch=batch), small_files()]
