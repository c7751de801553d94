"""Parts of pairs: which ones are made at a time, and that several at a time change nothing."""

from collections.abc import Sequence

import pytest

from dposcope.jobs.opening import open_run
from dposcope.jobs.pairs import parts
from dposcope.jobs.pairs.parts import Part, make_parts
from dposcope.pairs.pairs import Pair
from dposcope.pairs.sampled import ScoredPair


@pytest.mark.parametrize(
    ("count", "start", "end", "missing", "planned"),
    [
        (1, 0, 20, None, [range(0, 8)]),
        (2, 8, 40, None, [range(8, 16), range(16, 24)]),
        (2, 16, 20, None, [range(16, 20)]),
        (3, 0, 20, None, [range(0, 8), range(8, 16), range(16, 20)]),
        (3, 0, 99, 24, [range(0, 8), range(8, 16), range(16, 24)]),
        (3, 0, 99, 23, [range(0, 8), range(8, 16)]),  # the third one is smaller if both give all that they can
        (3, 0, 99, 5, [range(0, 5)]),
    ],
)
def test_parts_of_a_turn_are_those_of_one_process(monkeypatch, count, start, end, missing, planned):
    monkeypatch.setattr(parts, "sharing", lambda: count)
    assert parts._next_parts(start, end, 8, missing) == planned


@pytest.mark.parametrize("method", ["sample", "pplm"])
@pytest.mark.parametrize("most", [None, 1, 9, 20, 24])
def test_several_at_a_time_give_the_same(tmp_path, monkeypatch, method, most):
    prompts = [f"prompt {row}" for row in range(35)]

    def make(some: Sequence[str], first_row: int) -> Part:
        kept = [ScoredPair(Pair(one, f"{first_row} of {len(some)}", "worse"), 0.1, 0.9) for one in some]
        return Part([one for row, one in enumerate(kept, first_row) if row % 5 != 2])

    made: dict[int, list[Part]] = {}
    for count in (1, 2, 4):
        monkeypatch.setattr(parts, "sharing", lambda count=count: count)
        with open_run(tmp_path / str(count), "pairs", {}) as run:
            made[count] = list(make_parts(run, make, prompts, {}, method=method, most=most, size=4))
    assert len(made[1]) > 0
    assert made[1] == made[2] == made[4]
