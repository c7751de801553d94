"""What `dposcope edit` does."""

from pathlib import Path

from dposcope.data.concept import TOXICITY
from dposcope.evaluation.conditions.scores import BASE
from dposcope.interventions.shipped import shipped_edits
from dposcope.jobs.edit.choice import SEARCH_WINDOWS
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.estimate.measuring import (
    Counted,
    checkpoint,
    condition,
    counted,
    direction,
    ideal,
    ideal_read,
    loading,
    means,
    search_window,
    small_files,
)
from dposcope.jobs.estimate.start import start
from dposcope.jobs.estimate.work import Running, Stage, Texts, Work
from dposcope.jobs.ingredients.data import read_data
from dposcope.jobs.ingredients.job import check_fits
from dposcope.jobs.opening import check_folder

TRIALS = 6
"""Strengths that a search tries, about; at most twelve."""


def edit_work(model: str, out: Path, settings: EditSettings) -> Work:
    """Check everything that can be checked without weights, and count.

    Args:
        model: its name.
        out: the run's folder.
        settings: of the command.

    Raises:
        DposcopeError: bad input, as of the command itself.
    """
    check_folder(out, "edit")
    data = read_data(settings)
    started = start(model, settings, settings)
    searched = None if settings.edit_spec.given else data.report.neutral
    check_fits(started.lm, data, settings, searched)
    window = 0 if searched is None else search_window(started.lm, searched)
    found = counted(started.lm, data, settings.direction_spec)
    learned = settings.learned and settings.meant == TOXICITY and model in shipped_edits()
    stages = edit_stages(
        started.running,
        settings,
        found,
        window=window,
        learned=learned,
        stored=started.stored,
        beside=started.outline.beside,
    )
    return Work("edit", model, started.running, tuple(stages), started.precision, notes=search_notes(window))


def search_notes(window: int) -> tuple[str, ...]:
    """What is not known of a search for a strength before it is made."""
    return () if not window else (f"The search for the strength is counted with {TRIALS} trials; it may need 12.",)


def edit_stages(
    running: Running,
    settings: EditSettings,
    data: Counted,
    *,
    window: int,
    learned: bool,
    stored: int,
    beside: int,
) -> list[Stage]:
    """All stages.

    Args:
        running: the model.
        settings: of the command.
        data: what is read.
        window: tokens of a window of the search; 0: the strength is given.
        learned: whether the edit that comes with dposcope is measured, too.
        stored: bytes of a stored weight.
        beside: bytes of the files beside the weights.
    """
    batch, spec = settings.batch_size, settings.direction_spec
    stages = [loading(running, stored), direction(running, data.comments, spec), means(running, data.learn, spec)]
    if window:
        read = Texts.alike(SEARCH_WINDOWS * (1 + TRIALS), window)
        predicted = read.tokens - len(read)
        stages.append(Stage("search for the strength", (running.reads(read, batch=1, predicted=predicted),)))
    stages += ideal(running, data, batch=batch)
    names = [BASE, "edit", *(["control"] if settings.controls else []), *(["learned"] if learned else [])]
    stages += [condition(running, data, name, batch=batch) for name in names]
    stages += ideal_read(running, data, batch=batch)
    return [*stages, checkpoint(running, beside), small_files()]
