"""Several pieces of work at a time: their order, their number, and what one that fails does to the others."""

import threading

import pytest

from dposcope.model.engine.parallel import in_parallel


def test_results_are_in_order_and_no_more_run_at_a_time_than_asked_for():
    lock, running, most, told = threading.Lock(), 0, 0, []
    both = threading.Barrier(2)

    def work(place):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.wait(10)  # two are at work at once, or this breaks
        with lock:
            running -= 1
        return place * place

    assert in_parallel(work, 6, at_once=2, progress=lambda *done: told.append(done)) == [0, 1, 4, 9, 16, 25]
    assert most == 2
    assert told == [(count, 6) for count in range(1, 7)]
    assert in_parallel(work, 0, at_once=2) == []


def test_the_first_error_is_raised_and_what_has_not_begun_is_left():
    begun = []

    def work(place):
        begun.append(place)
        raise KeyError(place)

    with pytest.raises(KeyError):
        in_parallel(work, 50, at_once=1)
    assert len(begun) < 50
