"""Runs of commands on tiny models without what most tests do not look at, in half the time."""

from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from dposcope.evaluation import overlap
from dposcope.evaluation.conditions import measure
from dposcope.jobs.estimate import explain, measuring
from dposcope.jobs.estimate.machine import Machine
from dposcope.jobs.ingredients import job
from dposcope.report import figures

MODULES = (overlap, measure, job, explain, measuring)
"""All that name the number of tokens."""
TOKENS = 8
"""Of each text that is measured; the protocol's 20 are pinned by the tests of `evaluation`, and by the edit, the search
and the explanation of `unchanged`."""
FEW_TOKENS = 4
"""Of each where nothing is said of texts but that two runs write the same."""
WHOLE = overlap.GENERATED_TOKENS
"""Those 20."""

_PAINT = Figure.savefig
_DRAWING = figures._drawing

_BLANK = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="1pt" height="1pt" viewBox="0 0 1 1"/>',
    "png": b"\x89PNG\r\n\x1a\n",
}


def _leave_blank(_figure: Figure, where, *, format: str, **_: object) -> None:
    if hasattr(where, "write"):
        where.write(_BLANK[format])
    else:
        Path(where).write_bytes(_BLANK[format])


_measured = cache(Machine.measured)
"""What this machine can do: half a second's work, and `estimate/test_machine.py` is about it."""


@contextmanager
def light(tokens: int = TOKENS) -> Generator[None]:
    """Within, figures are made, but painted blank, texts have so many tokens, and this machine is measured once; in
    processes of `forked.py`, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", _leave_blank)
        patch.setattr(figures, "_drawing", lambda _figure: nullcontext())  # it makes every mark of every axis
        patch.setattr(Machine, "measured", _measured)
        for module in MODULES:
            patch.setattr(module, "GENERATED_TOKENS", tokens)
        yield


@contextmanager
def painted() -> Generator[None]:
    """Within, figures are painted, though this be within `light`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", _PAINT)
        patch.setattr(figures, "_drawing", _DRAWING)
        yield


def lightness() -> int | None:
    """The number of tokens, if this is within `light`."""
    return overlap.GENERATED_TOKENS if Figure.savefig is _leave_blank else None
