"""Every table is a pandas frame, too, or says what is missing."""

import importlib
import inspect
import pkgutil

import polars as pl
import pytest

import dposcope
from dposcope.data import pandas_frames
from dposcope.data.pandas_frames import ToPandas
from dposcope.errors import DposcopeError


class Squares(ToPandas):
    def to_polars(self) -> pl.DataFrame:
        return pl.DataFrame({"n": [1, 2, 3], "square": [1.0, 4.0, None], "name": ["one", None, "three"]})


def test_whatever_gives_a_polars_frame_gives_a_pandas_frame():
    found = [
        one
        for module in pkgutil.walk_packages(dposcope.__path__, "dposcope.")
        if module.name != "dposcope.__main__"
        for _, one in inspect.getmembers(importlib.import_module(module.name), inspect.isclass)
        if "to_polars" in vars(one) and one.__name__ != "_Tabular"
    ]
    assert len(found) > 15
    assert [one.__name__ for one in found if not issubclass(one, ToPandas)] == []


@pytest.mark.parametrize("missing", [["pandas"], ["pyarrow"], ["pandas", "pyarrow"]])
def test_what_is_missing_is_told(monkeypatch, missing):
    monkeypatch.setattr(pandas_frames, "find_spec", lambda name: None if name in missing else object())
    line = f"needs {' and '.join(missing)}; run: pip install {' '.join(missing)}"
    with pytest.raises(DposcopeError, match=f"{line}$"):
        Squares().to_pandas()


def test_polars_converts(monkeypatch):
    """pandas is not among the packages of the tests."""
    monkeypatch.setattr(pandas_frames, "find_spec", lambda _: object())
    monkeypatch.setattr(pl.DataFrame, "to_pandas", lambda frame: ("pandas", frame.rows()))
    assert Squares().to_pandas() == ("pandas", [(1, 1.0, "one"), (2, 4.0, None), (3, None, "three")])
