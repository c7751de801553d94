"""What `dposcope probe` does."""

from pathlib import Path

from dposcope.artefacts import check_path
from dposcope.jobs.estimate.measuring import comments_read, direction, loading
from dposcope.jobs.estimate.start import start
from dposcope.jobs.estimate.work import Work
from dposcope.jobs.ingredients.data import read_comments
from dposcope.jobs.ingredients.direction import check_direction, check_of_model
from dposcope.jobs.ownership import refuse_foreign_value
from dposcope.jobs.settings import FITTED, ProbeSettings


def probe_work(model: str, out: Path, settings: ProbeSettings) -> Work:
    """Check everything that can be checked without weights, and count.

    Args:
        model: its name.
        out: path of the direction.
        settings: of the command.

    Raises:
        DposcopeError: bad input, as of the command itself.
    """
    check_path(out)
    refuse_foreign_value(out)
    check_direction(settings.kind, settings.meant)
    comments = read_comments(settings).first(settings.direction_rows)
    started = start(model, settings)
    spec = settings.direction_spec
    check_of_model(started.lm, spec, fits=spec.kind in FITTED)
    texts = comments_read(started.lm, comments, spec)
    stages = (loading(started.running, started.stored), direction(started.running, texts, spec))
    return Work("probe", model, started.running, stages, started.precision)
