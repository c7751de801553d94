"""The time left: the estimates, corrected by how long finished steps took."""

import pytest

from dposcope.jobs.reproduce.estimate import Estimate
from dposcope.jobs.reproduce.time_left import TimeLeft


def estimate(name: str, seconds: float | None, *, done: bool = False) -> Estimate:
    return Estimate(name, done, seconds, None, None, needs_gpu=False)


def test_what_was_measured_corrects_what_was_estimated():
    clock = [100.0]
    steps = [estimate("a", 50.0, done=True), estimate("b", 10.0), estimate("c", 30.0), estimate("d", 5.0)]
    left = TimeLeft(steps, time=lambda: clock[0])
    assert left.seconds == 45.0
    clock[0] += 20.0  # twice as long as estimated
    left.finished("b")
    assert left.seconds == pytest.approx(70.0)
    clock[0] += 40.0
    left.finished("c")
    assert left.seconds == pytest.approx(5.0 * 60 / 40)
    left.finished("d")
    assert left.seconds == 0.0


def test_without_the_size_of_a_model_nobody_knows():
    left = TimeLeft([estimate("a", 3.0), estimate("b", None)])
    assert left.seconds is None
