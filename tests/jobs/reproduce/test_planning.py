"""What `dposcope reproduce` decides before any step runs; the steps themselves: `test_reproduce_job.py`."""

from pathlib import Path

import pytest

from dposcope.artefacts import write_text
from dposcope.errors import DposcopeError
from dposcope.jobs.reproduce.job import model_folder, plan_reproduction
from dposcope.jobs.reproduce.manifest import Manifest
from dposcope.jobs.reproduce.preset import load_preset
from dposcope.jobs.reproduce.settings import ReproduceSettings

NONE = ReproduceSettings()


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("gemma-3-270m", "gemma-3-270m"),
        ("google/gemma-2-2b", "gemma-2-2b"),
        ("models/some.gguf", "some"),
        ("a folder/my model/", "my-model-6f3a1588"),
    ],
)
def test_a_folder_is_named_after_its_model(name, folder):
    assert model_folder(name) == folder


def test_relative_names_of_folders_are_no_names(tmp_path, monkeypatch):
    (tmp_path / "model/inside").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "model/inside")
    assert (model_folder("."), model_folder("..")) == ("inside", "model")


@pytest.mark.parametrize("models", [["a/model", "b/model"], ["a/model", "b/Model"]])
def test_two_models_do_not_share_a_folder(tmp_path, models):
    with pytest.raises(DposcopeError, match="would share one folder"):
        plan_reproduction(models, tmp_path, load_preset("smoke"), NONE)


@pytest.mark.parametrize(
    ("name", "said"),
    [("{}/nothing", "is not a model"), ("{}/no.gguf", "no file"), ("{}/empty", "holds no config.json")],
)
def test_what_is_no_model_is_told(tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DposcopeError, match=said):
        plan_reproduction([name.format(tmp_path)], tmp_path / "out", load_preset("smoke"), NONE)


@pytest.fixture
def whole(tmp_path) -> Path:
    """A folder whose manifest says that everything is done."""
    out = tmp_path / "out"
    manifest = Manifest.read(out)
    for planned in plan_reproduction([], out, load_preset("smoke"), NONE):
        for file in [*planned.step.results, planned.step.product]:
            write_text(file, "x")
        manifest.enter(planned.name, planned.key, planned.step.folder, root=out)
    return out


def undone(out: Path, **options) -> list[str]:
    steps = plan_reproduction([], out, load_preset("smoke"), NONE, **options)
    return [planned.name.removeprefix("tiny/") for planned in steps if not planned.done]


def test_raw_tables_are_other_tables(whole):
    assert undone(whole) == []
    assert undone(whole, raw=True) == ["explain-sampled-strict", "explain-sampled-reference", "explain-pplm-strict"]


def test_a_checkpoint_that_nobody_needs_any_more_may_be_deleted(whole):
    (whole / "tiny/sampled/dpo/model/config.json").unlink()
    assert undone(whole) == []
    (whole / "tiny/sampled/explain-strict/report.html").unlink()
    assert undone(whole) == ["dpo-sampled", "explain-sampled-strict"]


@pytest.mark.parametrize("name", ["report.html", "explain.json", "scores.json", "tables.json"])
def test_what_the_report_over_all_reads_must_be_there(whole, name):
    (whole / "tiny/pplm/explain-strict" / name).unlink()
    assert undone(whole) == ["explain-pplm-strict"]
