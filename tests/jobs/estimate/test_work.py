"""Passes through a model: operations, bytes and memory against sums over single tokens."""

from dataclasses import replace

import pytest

from dposcope.jobs.estimate.machine import Machine
from dposcope.jobs.estimate.work import (
    BANDWIDTH,
    CHUNK,
    COMPUTE,
    DISK,
    DRAWING,
    LIBRARIES,
    MEMORY,
    READING,
    STARTING,
    STARTS,
    WRITING,
    Memory,
    Running,
    Stage,
    Texts,
    Work,
)
from dposcope.model.size import ModelSize

SIZE = ModelSize(2_000_000_000, 32_000, 2048, 24, 8192, 512)
RUNNING = Running(SIZE, 2)
PROMPTS = Texts((9, 4, 7, 7, 2))


def test_reading_is_two_operations_for_a_weight_and_a_token():
    found = RUNNING.reads(PROMPTS, batch=2, predicted=200)
    operations = sum(2 * SIZE.body for length in PROMPTS.lengths for _ in range(length)) + 200 * 2 * SIZE.unembedding
    assert found.read == 29
    assert found.written == 0
    assert found.operations == pytest.approx(operations / READING)
    # Three batches read the blocks; two chunks of positions read the unembedding.
    assert found.bytes == 2 * (3 * SIZE.body + 2 * SIZE.unembedding)
    assert found.blocks == 3 * 24
    assert found.held.logits == CHUNK * 32_000 * (2 + 4)


def test_a_tokenizer_and_what_a_stage_imports_stand_beside_the_libraries():
    stages = (Stage("loading"), Stage("training", held=Memory(3e8, training=1e8)))
    work = Work("dpo", "m", Running(SIZE, 2, tokenizer=2e8), stages)
    found = work.peak
    assert found == work.memory(stages[1])
    assert work.memory(stages[0]).libraries == LIBRARIES + 2e8
    told = work.to_json(Machine("machine", 1e12, 1e10, 10**10, 2))
    assert [one["memory"] for one in told["stages"]] == [work.memory(one).total for one in stages]
    assert found.libraries == LIBRARIES + 3e8 + 2e8
    assert found.total == found.libraries + 1e8 + 2 * SIZE.parameters
    rows = work.to_json(machine())["stages"]
    assert [row["memory"] for row in rows] == [found.total - 3e8 - 1e8, found.total]


def test_a_part_of_the_blocks_is_a_part_of_the_work():
    whole, half = (RUNNING.reads(PROMPTS, batch=2, depth=depth) for depth in (1.0, 0.5))
    assert (half.operations, half.bytes, half.blocks) == (whole.operations / 2, whole.bytes / 2, whole.blocks / 2)
    assert half.read == whole.read
    assert half.held.logits == 0


@pytest.mark.parametrize(("drawn", "share"), [(False, WRITING), (True, DRAWING)])
def test_every_step_of_writing_reads_all_weights_and_the_cache(drawn, share):
    new, rounds = 6, 3
    found = RUNNING.writes(PROMPTS, new, batch=2, drawn=drawn)
    tokens = PROMPTS.tokens + 5 * new
    assert (found.read, found.written) == (PROMPTS.tokens, 5 * new)
    assert found.operations == pytest.approx(2 * (SIZE.body * tokens + SIZE.unembedding * 5 * new) / share)
    of_token = 2 * 24 * 512 * 2  # keys and values of all blocks
    cache = sum(of_token * (length + step + 0.5) for length in PROMPTS.lengths for step in range(new))
    assert found.bytes == pytest.approx(rounds * new * 2 * (SIZE.body + SIZE.unembedding) + cache)
    assert found.held.cache == 2 * (9 + new) * of_token
    two = RUNNING.writes(PROMPTS, new, batch=2, drawn=drawn, models=2)
    assert (two.read, two.written, two.operations) == (2 * found.read, found.written, 2 * found.operations)


def test_texts_are_counted_one_by_one():
    assert Texts.of([[1, 2], [3]]).lengths == (2, 1)
    assert (PROMPTS.and_new(3).lengths, PROMPTS.some([0, 4]).lengths) == ((12, 7, 10, 10, 5), (9, 2))
    assert (PROMPTS.times(3).tokens, len(PROMPTS.times(3)), PROMPTS.longest) == (87, 15, 9)
    assert (Texts().longest, Texts().tokens) == (0, 0)


def machine(**rates) -> Machine:
    given = {"operations": 1e12, "bandwidth": 1e11, "memory": 10**12, **rates}
    return Machine("a machine", processor_bytes=2, **given)


@pytest.mark.parametrize(
    ("rates", "limit"),
    [
        ({"operations": 1e9}, COMPUTE),
        ({"bandwidth": 1e7}, BANDWIDTH),
        ({"operations": 1e18, "bandwidth": 1e18}, STARTS),
        ({"memory": 10**9}, MEMORY),
    ],
)
def test_the_slowest_of_three_decides(rates, limit):
    written = RUNNING.writes(PROMPTS, 6, batch=2)
    work = Work("evaluate", "m", RUNNING, (Stage("all", (written,)),))
    assert work.bottleneck(machine(**rates)) == limit
    seconds = work.seconds(machine(**{**rates, "memory": 10**12}))
    assert seconds == pytest.approx(max(written.seconds_by(machine(**rates)).values()))
    if limit == STARTS:
        assert seconds == pytest.approx(3 * 6 * 24 * STARTING)


def test_what_is_moved_takes_the_disks_time():
    work = Work("fold", "m", RUNNING, (Stage("writing", models=0.0, moved=5e8, disk=7.0),))
    assert work.seconds(machine()) == pytest.approx(1.0)
    assert (work.bottleneck(machine()), work.disk) == (DISK, 7.0)


def test_memory_is_that_of_the_largest_stage():
    small = Stage("small", (RUNNING.reads(PROMPTS, batch=1),))
    large = Stage("large", (RUNNING.reads(PROMPTS, batch=5),), models=2.0, held=Memory(0.0, data=5e8))
    work = Work("explain", "m", RUNNING, (small, large))
    assert work.peak.weights == 2 * 2 * SIZE.parameters
    assert (work.peak.data, work.peak.libraries) == (5e8, LIBRARIES)
    assert work.peak.total == pytest.approx(sum(work.peak.parts.values()))
    assert work.peak.total > Work("explain", "m", RUNNING, (small, replace(large, models=1.0))).peak.total


def test_several_stages_told_as_one_are_their_sum():
    one = Stage("one", (RUNNING.writes(PROMPTS, 6, batch=2),), disk=10.0)
    many = one.times(4, "four")
    assert (many.read, many.written, many.disk, many.name) == (4 * one.read, 4 * one.written, 40.0, "four")
    seconds = [sum(stage.seconds_by(machine()).values()) for stage in (one, many)]
    assert seconds[1] == pytest.approx(4 * seconds[0])
    assert many.passes[0].held == one.passes[0].held, "one after the other"
    assert one.written_elsewhere().passes == ()


def test_as_json_it_adds_up():
    work = Work("pairs", "m", RUNNING, (Stage("a", (RUNNING.reads(PROMPTS, batch=2),), disk=3.0), Stage("b", steps=4)))
    told = work.to_json(machine())
    assert told["seconds"] == pytest.approx(sum(one["seconds"] for one in told["stages"]))
    assert told["memory"]["total"] == max(one["memory"] for one in told["stages"])
    assert (told["stages"][1]["steps"], told["stages"][1]["bottleneck"], told["disk"]) == (4, None, 3.0)
