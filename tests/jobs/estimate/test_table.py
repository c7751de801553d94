"""The table of an estimate, its units, and what to lower where the memory is too small."""

import pytest

from dposcope.jobs.estimate.machine import Machine
from dposcope.jobs.estimate.table import bottleneck_line, hours, size, work_table
from dposcope.jobs.estimate.work import Less, Memory, Running, Stage, Texts, Work
from dposcope.model.size import ModelSize

SMALL = Machine("a small machine", 1e12, 1e11, 10**9, 2)
LARGE = Machine("a large machine", 1e12, 1e11, 10**13, 2)
SIZE = ModelSize(2_000_000_000, 32_000, 2048, 24, 8192, 512)


@pytest.mark.parametrize(
    ("command", "itemsize", "held", "said"),
    [
        ("evaluate", 4, {}, "8 GB of it are weights; use --dtype bfloat16"),
        ("evaluate", 2, {}, "4 GB of it are weights; take a smaller model, or a machine with more memory"),
        ("edit", 2, {"cache": 5e10}, "50 GB of it are keys and values; lower --batch-size"),
        ("edit", 2, {"logits": 5e10}, "50 GB of it are logits; lower --batch-size"),
        ("probe", 2, {"data": 5e10}, "50 GB of it are features and sums; lower --direction-rows"),
        ("dpo", 4, {"training": 2.4e10}, "the reference; use --train lora or --train gains"),
        ("dpo", 4, {"activations": 5e10}, "activations; lower --micro-batch-size, or give --recompute"),
    ],
)
def test_memory_that_does_not_fit_says_what_to_lower(command, itemsize, held, said):
    stage = Stage("a stage", held=Memory(0.0, **held))
    work = Work(command, "m", Running(SIZE, itemsize), (stage,), trains_all=command == "dpo")
    line = bottleneck_line(work, SMALL)
    assert line.startswith("memory does not fit: ")
    assert said in line
    assert "memory" not in bottleneck_line(work, LARGE)


@pytest.mark.parametrize(("steps", "option"), [(0, "--batch-size"), (30, "--micro-batch-size")])
def test_tune_has_an_option_for_what_it_trains_and_another_for_what_it_writes(steps, option):
    held = Memory(0.0, activations=5e10)
    work = Work("tune", "m", Running(SIZE, 2), (Stage("small", steps=1), Stage("large", steps=steps, held=held)))
    assert bottleneck_line(work, SMALL).endswith(f"of it are activations; lower {option}.")


def test_what_can_be_lowered_is_told_where_that_is_enough():
    work = Work("edit", "m", Running(SIZE, 2), (Stage("a stage", held=Memory(0.0, logits=2e9, cache=1e9)),))
    almost = Machine("almost enough", 1e12, 1e11, 6 * 10**9, 2)
    assert bottleneck_line(work, almost) == "memory does not fit: 2 GB of it are logits; lower --batch-size."
    assert "smaller model" in bottleneck_line(work, SMALL)


def test_options_that_take_less_are_told_where_it_then_fits():
    stage = Stage("a stage", held=Memory(0.0, training=2.4e10))
    work = Work("dpo", "m", Running(SIZE, 4), (stage,), trains_all=True, less=Less("--some --options", 3e10))
    enough, little = (Machine("a machine", 1e12, 1e11, memory, 2) for memory in (31 * 10**9, 29 * 10**9))
    told = "memory does not fit: 24 GB of it are gradients, the optimiser's state and the reference; "
    assert bottleneck_line(work, enough) == f"{told}give --some --options, or use --train lora or --train gains."
    assert bottleneck_line(work, little) == f"{told}use --train lora or --train gains."


def test_a_table_has_the_columns_that_say_something(tmp_path):
    running = Running(SIZE, 2)
    reading = Stage("reading", (running.reads(Texts.alike(1000, 50), batch=4),))
    table = work_table(Work("probe", "m", running, (reading,)), LARGE, out=tmp_path / "not" / "there")
    assert table.head == ("stage", "tokens read", "time", "memory", "limit")
    assert table.rows[0][:2] == ("reading", "50,000")
    assert table.notes[0].startswith("In all about ")
    assert table.notes[1] == "First limit: compute."
    training = Stage("training", (running.reads(Texts.alike(10, 50), batch=4),), steps=1234, disk=1e9, scratch=2e9)
    table = work_table(Work("dpo", "m", running, (reading, training), notes=("a note",)), LARGE, out=tmp_path)
    assert table.head == ("stage", "tokens read", "steps", "time", "memory", "disk", "limit")
    assert table.rows[1][2] == "1,234"
    assert "1 GB of disk (2 GB more while it is at work)" in table.notes[0]
    assert table.notes[-1] == "a note"


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (None, "?"),
        (0, "0 s"),
        (0.2, "below 1 s"),
        (40, "40 s"),
        (720, "12 min"),
        (12600, "3.5 h"),
        (180000, "50 h"),
        (350000, "4 days"),
    ],
)
def test_times_have_no_more_digits_than_they_bear(seconds, told):
    assert hours(seconds) == told


@pytest.mark.parametrize(
    ("count", "told"),
    [
        (None, "?"),
        (0, "0 kB"),
        (312, "0.31 kB"),
        (64.4e6, "64 MB"),
        (1.4449e9, "1.4 GB"),
        (234e9, "230 GB"),
        (2e12, "2 TB"),
    ],
)
def test_sizes_have_two_digits(count, told):
    assert size(count) == told
