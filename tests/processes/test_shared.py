"""Work that several processes share: the results are those of one, and where one fails, all do."""

import json
from typing import Any

import pytest

from dposcope.errors import DposcopeError
from dposcope.processes.group import Processes
from dposcope.processes.shared import counting, shared, together
from helpers.forked import TESTS
from helpers.shared_work import results
from helpers.together import script_together


def case(name: str, count: int = 2) -> list[dict[str, Any]]:
    """What each process says."""
    told = script_together(count, TESTS / "helpers/shared_work.py", name)
    assert [one.err for one in told] == [""] * count
    return [json.loads(one.out) if one.code == 0 else {"code": one.code} for one in told]


@pytest.mark.parametrize("count", [2, 4])
def test_results_are_those_of_one_process(count):
    alone = results(0)
    assert alone["squares"] == [[], [0], [0, 1, 4], [0, 1, 4, 9, 16, 25]]
    assert alone["nested"] == [[0, 1, 2], [0, 1, 2, 3]]
    every = case("results", count)
    for rank, told in enumerate(every):
        own = told.pop("own")
        assert told == {name: value for name, value in alone.items() if name != "own"}
        # Of one item, of three, of six and of five; who has none does another one's.
        assert own == [
            turn[rank % len(turn)]
            for items in (1, 3, 6, 5)
            for turn in (range(items)[start : start + count] for start in range(0, items, count))
        ]


def test_a_bad_item_is_told_in_all_and_all_go_on():
    assert case("one_fails") == [{"told": "item 1 is bad; mend it", "after": [1, 2]}] * 2


def test_all_take_smaller_batches_where_one_has_too_little_memory():
    assert case("too_large") == [{"made": list(range(0, 16, 2)), "sizes": [8, 4, 2]}] * 2


ENDS = {
    "one_leaves": "the disk is full; free some space",
    "one_errs": "process 1 of 2 failed: KeyError: 'lost'",
    "one_dies": "another process has stopped without a word, killed or for want of memory; look at what it left, and "
    "run the same command again to continue",
}


@pytest.mark.parametrize("name", ENDS)
def test_where_one_ends_the_others_end_for_its_reason(name):
    first, second = case(name)
    assert first == {"ended": f"OtherEndedError: {ENDS[name]}", "memory": False}
    own = {"one_leaves": f"DposcopeError: {ENDS[name]}", "one_errs": "KeyError: 'lost'"}
    assert second == ({"code": -9} if name == "one_dies" else {"ended": own[name], "memory": False})


def test_alone_an_error_stays_what_it_is():
    with pytest.raises(KeyError), together(Processes()):
        shared([1], lambda _: {}["nothing"])
    with pytest.raises(DposcopeError, match="bad"), together(Processes()):
        raise DposcopeError("bad; mend it")


def test_progress_counts_what_is_done():
    told: list[tuple[int, int]] = []
    shared(["aa", "b", "ccc"], len, done=counting(lambda done, total: told.append((done, total)), 6, len))
    assert told == [(2, 6), (3, 6), (6, 6)]
    shared(["aa"], len, done=counting(None, 2, len))
