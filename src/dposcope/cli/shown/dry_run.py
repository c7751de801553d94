"""`--dry-run`: what a command would do, on this machine."""

from collections.abc import Callable
from pathlib import Path

from dposcope.cli.console import print_table
from dposcope.jobs.estimate.machine import Machine
from dposcope.jobs.estimate.table import work_table
from dposcope.jobs.estimate.work import Work
from dposcope.jobs.settings import LoadSettings
from dposcope.model.checks.layout_file import use_layout
from dposcope.protocols import DeviceMap
from dposcope.terminal import print_json


def show_plan(work: Callable[[], Work], settings: LoadSettings, *, out: Path, json: bool) -> None:
    """Print the estimate of a command that loads a model as its settings say.

    Args:
        work: counts it, once the layout of the settings is in use.
        settings: of the command.
        out: see `show_work`.
        json: see `show_work`.
    """
    use_layout(settings.layout)
    show_work(work(), device=settings.device, device_map=settings.device_map, out=out, json=json)


def show_work(work: Work, *, device: str, out: Path, json: bool, device_map: DeviceMap | None = None) -> None:
    """Measure the machine, and print the estimate.

    Args:
        work: of the command.
        device: that it would run on.
        out: where its results would go.
        json: as JSON.
        device_map: auto: on all GPUs together.
    """
    machine = Machine.measured(device, dtype=work.precision, device_map=device_map)
    if json:
        print_json(work.to_json(machine))
        return
    print_table(work_table(work, machine, out=out))
