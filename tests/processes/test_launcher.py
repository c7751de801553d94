"""What a launcher says in environment variables, and what is said where none is at work."""

import re

import pytest

from dposcope.errors import DposcopeError
from dposcope.processes.launcher import Launched, local_rank, world_size

MASTER = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def told(monkeypatch):
    """`told(NAME=value, …)`: the environment holds these alone."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", *MASTER):
        monkeypatch.delenv(name, raising=False)

    def set_all(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize("size", [None, "", " ", "1", "01"])
def test_one_process_is_alone_whatever_else_is_set(told, size):
    told(RANK="7", **({} if size is None else {"WORLD_SIZE": size}))
    assert Launched.here() == Launched() == Launched(count=1, rank=0, on_this_machine=1)


def test_what_a_launcher_sets(told):
    told(WORLD_SIZE="4", RANK="3", LOCAL_RANK="1", LOCAL_WORLD_SIZE="2", **MASTER)
    assert Launched.here() == Launched(4, 3, 2)
    assert (world_size(), local_rank()) == (4, 1)


def test_without_the_number_on_this_machine_all_are_here(told):
    told(WORLD_SIZE="2", RANK="0", **MASTER)
    assert Launched.here().on_this_machine == 2
    assert local_rank() is None


NO_SIZES = ("0", "-1", "two", "²", "1e1", "9" * 40)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        *(({"WORLD_SIZE": size}, "WORLD_SIZE is '.*', which is no whole number from 1") for size in NO_SIZES),
        ({"WORLD_SIZE": "2"}, "RANK and MASTER_ADDR and MASTER_PORT are not set: no launcher .*; unset WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "MASTER_ADDR and MASTER_PORT are not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "", "MASTER_PORT": "1"}, "MASTER_ADDR is not set"),
        ({"WORLD_SIZE": "2", "RANK": "2", **MASTER}, "RANK is 2, but WORLD_SIZE is 2; give ranks from 0 to 1"),
        ({"WORLD_SIZE": "2", "RANK": "²", **MASTER}, "RANK is '²', which is no whole number from 0"),
        ({"WORLD_SIZE": "2", "RANK": "0", **MASTER, "MASTER_PORT": "http"}, "MASTER_PORT is 'http'"),
    ],
)
def test_what_is_no_launchers_is_refused(told, values, words):
    told(**values)
    with pytest.raises(DposcopeError, match=words):
        Launched.here()


def test_a_number_on_the_machine_that_is_none_is_refused(told):
    told(LOCAL_RANK="²")
    with pytest.raises(DposcopeError, match=re.escape("LOCAL_RANK is '²', which is no whole number from 0; unset it")):
        local_rank()
