import sys
from types import ModuleType

import polars as pl
import pytest

from dposcope.data.hub import is_hub_spec
from dposcope.data.tables import read_table
from dposcope.errors import DposcopeError


class FakeSplit:
    def __init__(self, **columns):
        self.columns = columns

    def to_polars(self):
        return pl.DataFrame(self.columns)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for `datasets`; the dictionary holds what it knows by (name, config)."""
    known = {}

    def load_dataset(name, config=None):
        if (name, config) not in known:
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub\nmore lines")
        return known[name, config]

    module = ModuleType("datasets")
    module.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", module)
    return known


def read(spec):
    return read_table(spec, columns=["a"], option="--a-column").texts("a")


@pytest.mark.parametrize(
    ("spec", "is_one"),
    [
        ("hub:owner/name", True),
        ("hub:owner/name/config-1.0@test", True),
        ("hub:owner/name@train", True),
        ("hub:owner/name/config@train?challenging=true", True),
        ("hub:owner/name?challenging", False),
        ("hub:owner/name?a=b?c=d", False),
        ("owner/name", False),
        ("hub:name", False),
        ("hub:../name/a/b", False),
        ("data/hub:owner/name", False),
    ],
)
def test_only_the_prefix_makes_a_hub_spec(spec, is_one):
    assert is_hub_spec(spec) is is_one


def test_a_single_split_needs_no_name(hub):
    hub["owner/name", None] = {"train": FakeSplit(a=["x", None, "y"])}
    assert read("hub:owner/name") == ["x", "y"]


def test_config_and_split_choose(hub):
    hub["owner/name", "raw"] = {"train": FakeSplit(a=["x"]), "test": FakeSplit(a=["y"])}
    assert read("hub:owner/name/raw@test") == ["y"]


def test_several_splits_are_listed(hub):
    hub["owner/name", None] = {"train": FakeSplit(a=["x"]), "test": FakeSplit(a=["y"])}
    with pytest.raises(DposcopeError, match="several splits; choose one: hub:owner/name@train, hub:owner/name@test"):
        read("hub:owner/name")
    with pytest.raises(DposcopeError, match="hub:owner/name has no split 'dev'; choose one: hub:owner/name@train"):
        read("hub:owner/name@dev")


def test_rows_are_kept_by_what_a_column_holds(hub):
    table = FakeSplit(a=["x", "y", "z"], challenging=[True, None, False], n=[1, 2, 2], list=[[1], [2], [3]])
    hub["owner/name", None] = {"train": table}
    for asked, expected in {
        "challenging=true": ["x"],
        "challenging=False": ["z"],
        "n=2": ["y", "z"],
        "a=X": ["x"],
    }.items():
        assert read(f"hub:owner/name?{asked}") == expected
    for asked, told in {
        "rude=1": "no column 'rude'; choose one of a, challenging, n, list",
        "n=3": "no row has the n '3'",
        "list=1": "holds lists or objects",
    }.items():
        with pytest.raises(DposcopeError, match=told):
            read(f"hub:owner/name@train?{asked}")


def test_what_cannot_be_loaded_is_one_line(hub):
    with pytest.raises(
        DposcopeError, match=r"^cannot load hub:a/b \(Dataset 'a/b' doesn't exist on the Hub\); check .*$"
    ):
        read("hub:a/b")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DposcopeError, match=r"pip install 'dposcope\[hub\]', or give a local file"):
        read("hub:owner/name")
