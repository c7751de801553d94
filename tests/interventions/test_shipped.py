"""Edits that come with the package: whole, small, honest about their making, found by name, measured by `edit`."""

from pathlib import Path

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions import shipped
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.interventions.shipped import edit_file, shipped_edit, shipped_edits
from dposcope.jobs.edit import job as edit_job
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.ingredients import job as job_at_work
from dposcope.jobs.measuring.conditions import parse_condition
from dposcope.model.bundled import BUNDLED
from dposcope.model.load import load
from helpers.jobs import make_job

SHAPES = {"gemma-3-270m": (18, 2048), "smollm2-135m-instruct": (30, 1536)}
MOST_BYTES = 400_000


def test_there_is_one_for_the_demos_model():
    assert "gemma-3-270m" in shipped_edits()
    assert set(shipped_edits()) <= set(BUNDLED)


@pytest.mark.parametrize("name", shipped_edits())
def test_each_fits_its_model_and_says_how_it_was_made(name):
    edit = shipped_edit(name)
    assert edit.gains is not None
    assert edit.gains.values.shape == SHAPES[name]
    assert edit.about["model"] == name
    made_by = str(edit.about["made by"])
    assert str(edit.about["command"]).removeprefix("python ").startswith(made_by)
    assert sum(path.stat().st_size for path in edit_file(name).parent.glob(f"{name}.*")) < MOST_BYTES


def test_a_model_without_one_is_told_the_way():
    with pytest.raises(DposcopeError, match="dposcope tune makes one"):
        shipped_edit("gpt2")


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert edit_file("gemma-3-270m").parent.name == "edits"
    Edit.of(Gains(torch.ones(2, 3))).save("gemma-3-270m")
    assert edit_file("gemma-3-270m") == Path("gemma-3-270m")
    assert edit_file("runs/none/edit") == Path("runs/none/edit")
    Edit.of(Gains(torch.ones(2, 3))).save(tmp_path / "run" / "edit")
    assert edit_file("run") == Path("run/edit")


def test_a_condition_names_it_by_the_model():
    part = parse_condition("edit:gemma-3-270m").parts[0]
    assert Edit.load(part.values["path"]).about == shipped_edit("gemma-3-270m").about


def test_edit_measures_it_beside_its_own(tmp_path, monkeypatch):
    job = make_job(tmp_path / "job")
    lm = load(str(job.model), dtype="float32", device="cpu")
    stream = torch.Generator().manual_seed(0)
    learned = Edit.of(
        Gains(1 + 0.5 * torch.randn(lm.n_blocks, lm.d_mlp, generator=stream)), ablate(torch.ones(lm.d_model))
    )
    folder = tmp_path / "edits"
    folder.mkdir()
    learned.save(folder / "tiny")
    monkeypatch.setattr(shipped, "_FOLDER", folder)
    monkeypatch.setattr(job_at_work, "load_native", lambda _name, **_settings: lm)
    settings = job.settings(alpha=0.2, controls=False)
    done = edit_job.run_edit("tiny", tmp_path / "out", EditSettings(**settings))
    assert set(done.scores.conditions) == {"none", "edit", "learned", "ideal"}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Learned edit" in page
    without = edit_job.run_edit("tiny", tmp_path / "without", EditSettings(**settings, learned=False))
    assert set(without.scores.conditions) == {"none", "edit", "ideal"}
    assert without.scores.conditions["edit"] == done.scores.conditions["edit"]
