"""Freed memory stays with the program, and only with it."""

import os
import subprocess
import sys

import pytest

from dposcope.cli.machine import allocator
from dposcope.cli.machine.allocator import GivingBack
from dposcope.jobs.reporter import Quiet

_TOUCHES = """
import ctypes, resource, sys
from dposcope.cli.machine.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "kept" else False
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def touch():
    block = library.malloc(1 << 27)
    ctypes.memset(block, 1, 1 << 27)
    library.free(block)
touch()
before = faults()
for _ in range(3):
    touch()
print(int(kept), faults() - before)
"""

_LEAVES = """
import ctypes
from dposcope.cli.machine.allocator import give_back, keep_freed_memory
keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]
def resident():
    with open("/proc/self/statm") as told:
        return int(told.read().split()[1])
blocks = [library.malloc(1 << 25) for _ in range(8)]
for block in blocks:
    ctypes.memset(block, 1, 1 << 25)
for block in blocks[:-1]:  # the last one keeps the heap from being cut at its end
    library.free(block)
kept = resident()
give_back()
print(kept - resident())
"""

glibc = pytest.mark.skipif(
    sys.platform != "linux" or "CS_GNU_LIBC_VERSION" not in os.confstr_names, reason="another allocator than glibc's"
)


def _touched(way: str, **more: str) -> tuple[bool, int]:
    plain = {name: value for name, value in os.environ.items() if name not in allocator._CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", _TOUCHES, way], capture_output=True, text=True, check=True, env={**plain, **more}
    )
    kept, faults = done.stdout.split()
    return kept == "1", int(faults)


@glibc
def test_kept_memory_is_not_cleared_again() -> None:
    pages = (1 << 27) // os.sysconf("SC_PAGE_SIZE")
    told, kept = _touched("kept")
    _, plain = _touched("plain")
    assert told
    assert kept < pages / 100  # of three times as many that were touched
    assert plain > kept


@glibc
def test_what_is_free_goes_back_between_stages() -> None:
    pages = 7 * (1 << 25) // os.sysconf("SC_PAGE_SIZE")
    plain = {name: value for name, value in os.environ.items() if name not in allocator._CHOSEN}
    done = subprocess.run([sys.executable, "-c", _LEAVES], capture_output=True, text=True, check=True, env=plain)
    assert int(done.stdout) == pytest.approx(pages, rel=0.1)


class Clocked(Quiet):
    """A reporter that gives memory back by a clock of its own, and knows when it did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.given = 100.0, list[float]()
        self.told: list[tuple[object, ...]] = []
        monkeypatch.setattr(allocator, "give_back", lambda: self.given.append(self.now))
        self.reporter = GivingBack(self, time=lambda: self.now)

    def stage(self, title: str) -> None:
        self.told.append(("stage", title))

    def reused(self, title: str) -> None:
        self.told.append(("reused", title))

    def progress(self, done: int, total: int) -> None:
        self.told.append(("progress", done, total))

    def ahead(self, stages: int) -> None:
        self.told.append(("ahead", stages))

    def step(self, line: str) -> None:
        self.told.append(("step", line))

    def note(self, line: str) -> None:
        self.told.append(("note", line))


def test_everything_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = Clocked(monkeypatch)
    clocked.reporter.stage("one")
    clocked.reporter.progress(1, 2)
    clocked.reporter.ahead(2)
    clocked.reporter.reused("two")
    clocked.reporter.step("three")
    clocked.reporter.note("four")
    assert clocked.told[:4] == [("stage", "one"), ("progress", 1, 2), ("ahead", 2), ("reused", "two")]
    assert clocked.told[4:] == [("step", "three"), ("note", "four")]
    assert clocked.given == []


def test_a_quick_stage_leaves_it_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = Clocked(monkeypatch)
    for clocked.now in (100.0, 101.0, 104.9, 105.0, 107.0, 109.9, 110.0, 300.0):
        clocked.reporter.stage("next")
    assert clocked.given == [105.0, 110.0, 300.0]


def test_what_a_long_stage_held_goes_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the minute was over only just before: models and optimisers live to the end."""
    clocked = Clocked(monkeypatch)
    clocked.reporter.stage("one")
    clocked.now = 160.0
    clocked.reporter.progress(1, 2)
    for clocked.now in (161.0, 162.0):
        clocked.reporter.stage("next")
    assert clocked.given == [160.0, 161.0]


def test_once_a_minute_is_often_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    clocked = Clocked(monkeypatch)
    for clocked.now in (101.0, 159.0, 160.0, 161.0, 219.0, 230.0):
        clocked.reporter.progress(1, 2)
    assert clocked.given == [160.0, 230.0]


@glibc
def test_the_user_s_choice_stands() -> None:
    told, _ = _touched("kept", MALLOC_TRIM_THRESHOLD_="131072")
    assert not told


def test_nor_is_memory_given_back_against_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    monkeypatch.setattr(allocator.gc, "collect", None)  # would fail if it were asked
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)
    allocator.give_back()


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator.sys, "platform", "darwin")
    monkeypatch.setattr(allocator.ctypes, "CDLL", None)  # would fail if it were asked
    assert not allocator.keep_freed_memory()
    allocator.give_back()
