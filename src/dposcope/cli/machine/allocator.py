"""Memory that a command has freed stays with it for a while: large tensors then cost no fresh pages at every step.

glibc hands every block beyond 32 MB back to the kernel when it is freed, and the kernel clears each page of the next
one anew. Training frees and takes a gigabyte of logits at every step: without this a fifth of its processor time is
spent in the kernel (`benchmarks/allocator.py`). A library must not decide this for a process, so only the program does.
"""

import ctypes
import gc
import os
import sys
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dposcope.jobs.reporter import Reporter

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of `mallopt(3)`."""
_MOST = 2**31 - 1
"""Bytes: `mallopt` takes an int. Blocks beyond that still go back when freed."""
_CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
"""Environment variables by which a user chooses otherwise."""


def _chosen_by_user() -> bool:
    return any(name in os.environ for name in _CHOSEN)


def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed.

    Returns:
        Whether it was told: not on other systems, nor where the user has set glibc's environment variables.
    """
    if sys.platform != "linux" or _chosen_by_user():
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    # An older glibc refuses a threshold beyond 32 MB, but can do without mapped blocks altogether.
    heaped = library.mallopt(_MMAP_THRESHOLD, _MOST) == 1 or library.mallopt(_MMAP_MAX, 0) == 1
    return heaped and library.mallopt(_TRIM_THRESHOLD, _MOST) == 1


def give_back() -> None:
    """Hand the kernel what is free; nothing where the C library is another, or its user chose otherwise."""
    if _chosen_by_user():
        return
    gc.collect()  # models and optimisers often hold each other
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


class GivingBack:
    """A `Reporter` that passes everything on, and gives memory back between long stages and once a minute within one.

    Batches differ in length, so each step takes blocks of other sizes than the one before and finds no room for them
    in what that one left in pieces: what is kept would grow from step to step (`benchmarks/allocator.py --train full`).
    To give it back costs no more than a step does where nothing is kept, but the search for garbage takes a quarter of
    a second, so a quick stage leaves it to the next.
    """

    EVERY = 60.0
    """Seconds within a stage."""
    BETWEEN = 5.0
    """Seconds of stages, that of the last one at least, after which it is worth the search."""

    def __init__(self, reporter: "Reporter", *, time: Callable[[], float] = monotonic) -> None:
        """`reporter` is told everything; `time` is the clock, in seconds."""
        self._reporter = reporter
        self._time = time
        self._last = self._ended = time()

    def stage(self, title: str) -> None:
        """What a long stage held to its end goes before the next, however short ago the minute was over."""
        if self._time() - self._ended >= self.BETWEEN:
            give_back()
            self._last = self._ended = self._time()
        self._reporter.stage(title)

    def reused(self, title: str) -> None:
        """Passed on."""
        self._reporter.reused(title)

    def ahead(self, stages: int) -> None:
        """Passed on."""
        self._reporter.ahead(stages)

    def step(self, line: str) -> None:
        """Passed on."""
        self._reporter.step(line)

    def note(self, line: str) -> None:
        """Passed on."""
        self._reporter.note(line)

    def progress(self, done: int, total: int) -> None:
        """Memory goes back where it did not for a minute."""
        if self._time() - self._last >= self.EVERY:
            give_back()
            self._last = self._time()
        self._reporter.progress(done, total)
