"""A round of the soak, and what counts as grown."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from soak import Count, grown, soak, table

BEFORE = Count(memory=500.0, hooks=0, files=9, threads=3, temporary=0, objects=100_000)


@pytest.mark.slow
def test_a_round_leaves_no_hook_and_no_temporary_file():
    (after,) = soak(1)
    assert (after.hooks, after.temporary) == (0, 0)
    assert after.memory > 50
    assert after.files > 2
    assert table([after]).count("\n") == 5


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("hooks", 1, ["hooks"]),
        ("files", 10, ["files"]),
        ("threads", 4, ["threads"]),
        ("temporary", 1, ["temporary"]),
        ("memory", 520.0, ["memory"]),
        ("memory", 510.0, []),
        ("objects", 102_000, ["objects"]),
        ("objects", 100_500, []),
        ("files", 8, []),
    ],
)
def test_what_has_grown_is_named(name, value, told):
    assert grown(BEFORE, replace(BEFORE, **{name: value})) == told
