"""An estimate for people: a short table, and what to lower where the memory is too small."""

import math
import shutil
from pathlib import Path
from typing import Final

import polars as pl

from dposcope.jobs.estimate.machine import Machine
from dposcope.jobs.estimate.work import MEMORY, STARTS, Work
from dposcope.report.table import Column, Table

ACCURACY: Final = "On a CPU with nothing else at work, times are accurate to about a factor of two."
GPU_ACCURACY: Final = "On a GPU the times are rough: this program's shares of its peak were not measured."
_NOT_COUNTED: Final = "The start of the program, scorers, statistics and figures are not counted; most take seconds."
_EASIER: Final = {
    "cache": "--batch-size",
    "activations": "--batch-size",
    "logits": "--batch-size",
    "data": "--direction-rows",
}
"""Part of the memory → the option that lowers it."""
_OF_DPO: Final = {"activations": "--micro-batch-size, or give --recompute", "logits": "--micro-batch-size"}
_OF_TUNE: Final = {"activations": "--micro-batch-size", "logits": "--micro-batch-size"}
"""The same in a stage that trains."""


def work_table(work: Work, machine: Machine, *, out: Path) -> Table:
    """The stages of a command.

    Args:
        work: that it does.
        machine: that it runs on.
        out: its folder, to report the free disk space.
    """
    told = work.to_json(machine)
    rows = [
        {
            "stage": one.name,
            "tokens read": _count(one.read),
            "written": _count(one.written),
            "steps": _count(one.steps),
            "time": hours(rounded(row["seconds"])),
            "memory": size(row["memory"]),
            "disk": size(one.disk) if one.disk else "",
            "limit": row["bottleneck"] or "",
        }
        for one, row in zip(work.stages, told["stages"], strict=True)
    ]
    view = pl.DataFrame(rows)
    shown = [name for name in view.columns if name in ("stage", "time", "memory") or any(view[name] != "")]
    return Table(
        "estimate",
        f"dposcope {work.command} {work.model}: what it would do. Nothing is loaded or written.",
        pl.DataFrame(told["stages"], infer_schema_length=None),
        tuple(Column(name, name) for name in shown),
        tuple(_notes(work, machine, out)),
        view=view,
    )


def _notes(work: Work, machine: Machine, out: Path) -> list[str]:
    meanwhile = f" ({size(work.scratch)} more while it is at work)" if work.scratch else ""
    here = (
        f"{machine.name}: {machine.operations / 1e9:,.0f} G operations and {machine.bandwidth / 1e9:,.0f} GB a second"
    )
    notes = [
        f"In all about {hours(rounded(work.seconds(machine)))}, {size(work.peak.total)} of memory (here: "
        f"{size(machine.memory)}) and {size(work.disk)} of disk{meanwhile} (free: {size(free(out))}).",
        f"First limit: {bottleneck_line(work, machine)}",
        f"Measured here: {here}. {GPU_ACCURACY if machine.gpu else ACCURACY}",
        _NOT_COUNTED,
    ]
    return [*notes, *work.notes]


def bottleneck_line(work: Work, machine: Machine) -> str:
    """What the command meets first, and what to lower where it does not fit."""
    found = work.bottleneck(machine)
    if found == MEMORY:
        return f"memory does not fit: {_advice(work, machine)}."
    if found == STARTS:
        return "starting kernels (the model is small for this machine); a larger --batch-size starts fewer."
    return f"{found}."


def _advice(work: Work, machine: Machine) -> str:
    part, peak = work.peak.largest, work.peak
    lowered = {name: held for name, held in peak.parts.items() if name in _EASIER}
    if peak.total - sum(lowered.values()) < machine.memory:  # without them it fits
        part = max(lowered, key=lambda name: lowered[name])
    told = f"{size(peak.parts[part])} of it are {_NAMES[part]}"
    dpo = work.command == "dpo"
    if work.less is not None and work.less.memory < machine.memory:
        return f"{told}; give {work.less.options}, or use --train lora or --train gains"
    match part:
        case "weights" if work.running.itemsize > 2 and not dpo and work.command != "fold":
            return f"{told}; use --dtype bfloat16"
        case "weights" | "training" if dpo and peak.training > peak.activations and work.trains_all:
            return f"{told}; use --train lora or --train gains"
        case "weights" | "training":
            return f"{told}; take a smaller model, or a machine with more memory"
        case _:
            training = _OF_DPO if dpo else _OF_TUNE if work.command == "tune" and work.largest.steps else {}
            option = training.get(part) or _EASIER[part]
            return f"{told}; lower {option}"


_NAMES: Final = {
    "weights": "weights",
    "cache": "keys and values",
    "activations": "activations",
    "logits": "logits",
    "training": "gradients, the optimiser's state and the reference",
    "data": "features and sums",
}


def free(out: Path) -> float:
    """Bytes that are free where a folder is, or will be."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    return float(shutil.disk_usage(place).free)


def hours(seconds: float | None) -> str:
    """Like `40 s`, `12 min`, `3.5 h` and `4 days`."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 1 or seconds == 0 else "below 1 s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 72 * 3600:
        return f"{seconds / 3600:.1f} h" if seconds < 10 * 3600 else f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:,.0f} days"


def size(count: float | None) -> str:
    """Bytes like `0.3 MB`, `64 MB`, `1.4 GB` and `230 GB`."""
    if count is None:
        return "?"
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{rounded(count / unit):g} {name}"
    return f"{rounded(count / 1e3):g} kB"


def rounded(number: float) -> float:
    """To two digits."""
    return number if number == 0 else round(number, 1 - math.floor(math.log10(abs(number))))


def _count(number: int) -> str:
    return f"{number:,}" if number else ""
