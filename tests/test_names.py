"""The names of the library: all there, and none imported before it is asked for."""

import subprocess
import sys

import pytest

import dposcope as ds


def test_importing_the_library_waits_for_nothing_heavy():
    program = "import sys, dposcope; dir(dposcope); print({'torch', 'numpy', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_names_are_listed_and_no_other_is_there():
    assert dir(ds) == ds.__all__
    assert "load" in ds.__all__
    with pytest.raises(AttributeError, match="lode"):
        ds.lode  # noqa: B018
