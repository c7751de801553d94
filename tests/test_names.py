"""The names of the library: all there, and none imported before it is asked for."""

import re
import subprocess
import sys

import pytest

import dposcope as ds
from helpers.public_names import KEPT, SOURCE, public_names


def test_importing_the_library_waits_for_nothing_heavy():
    program = "import sys, dposcope; dir(dposcope); print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_names_are_listed_and_no_other_is_there():
    assert dir(ds) == ds.__all__
    assert "load" in ds.__all__
    with pytest.raises(AttributeError, match="lode"):
        ds.lode  # noqa: B018


CORE = ["Load", "Measure", "Find", "Edit", "Evaluate", "Ship"]


def test_the_names_that_most_need_come_first_under_headings():
    stub = (SOURCE / "__init__.pyi").read_text(encoding="utf-8")
    core, _, others = stub.partition("# Everything else")
    assert [line[2:].partition(":")[0] for line in core.splitlines() if line.startswith("# ")] == CORE
    assert 20 <= core.count(" as ") <= 28
    assert core.count(" as ") + others.count(" as ") == len(ds.__all__)
    assert {"load", "generate", "mean_difference", "Edit", "load_scorer", "fold"} <= set(
        re.findall(r"\w+(?= as )", core)
    )


def test_names_signatures_commands_and_options_are_those_of_the_committed_list():
    """A change of what users can name shows in review. If it is meant: `make names`, and commit the list."""
    assert public_names().splitlines() == KEPT.read_text(encoding="utf-8").splitlines()
