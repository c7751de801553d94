"""What stands beside the base: how it is named, what is read of it, what is said of it."""

import json

import pytest
import torch

from dposcope.artefacts import value_files
from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import EditedModel
from dposcope.interventions.gains import Gains
from dposcope.interventions.tuned import edit_stem
from dposcope.interventions.weights import OtherWeights
from dposcope.jobs.explain.tuned_side import TunedSide, training_of
from helpers.families import random_direction, random_gains
from helpers.training_facts import GAINS_TRAINING as TRAINING


@pytest.fixture
def edit(llama):
    return Edit.of(Gains(random_gains(llama)), ablate(random_direction(llama), weight=0.5))


def test_an_edit_by_any_of_its_names(edit, tmp_path, monkeypatch):
    stem = tmp_path / "run" / "edit"
    edit.save(stem)
    for named in (
        f"edit:{stem.parent}",
        f"edit:{stem}",
        f"edit:{stem}.safetensors",
        stem.parent,
        stem,
        f"{stem}.safetensors",
    ):
        found = TunedSide.read(named)
        assert torch.equal(found.edit.gains.values, edit.gains.values), named
        assert (found.source, found.label) == (str(named), "Edit")
        assert isinstance(found.intervention(), EditedModel)
    monkeypatch.chdir(stem.parent)
    for named in ("edit:.", "edit:", "edit:edit", ".", "edit.safetensors"):
        assert TunedSide.read(named).edit is not None, named
    assert TunedSide.read("edit:gemma-3-270m").edit.gains is not None


def test_whatever_else_is_a_model(edit, llama, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    llama.save_pretrained(tmp_path / "model")
    edit.save(tmp_path / "model" / "edit")  # as a checkpoint that an edit was folded into has it
    for named in (tmp_path / "model", "gemma-3-270m", "org/name", "gpt2", "", tmp_path / "nothing", "x.safetensors"):
        assert edit_stem(named) is None, named
    found = TunedSide.read(tmp_path / "model")
    assert isinstance(found.intervention(), OtherWeights)
    assert (found.edit, found.training, found.label, found.notes) == (None, None, "Tuned model", [])


def test_an_adapter_with_an_edit_beside_is_an_adapter(edit, tmp_path):
    edit.save(tmp_path / "edit")
    assert edit_stem(tmp_path) is not None
    (tmp_path / "adapter_config.json").write_text("{}")
    assert edit_stem(tmp_path) is None


@pytest.mark.parametrize("lost", ["safetensors", "json"])
def test_half_an_edit_is_none(edit, tmp_path, lost):
    edit.save(tmp_path / "edit")
    (tmp_path / f"edit.{lost}").unlink()
    with pytest.raises(DposcopeError, match="names no edit"):
        edit_stem(f"edit:{tmp_path}")
    assert edit_stem(tmp_path) is None


@pytest.mark.parametrize("named", ["edit:", "edit:.", "edit:nothing", "edit:toy"])
def test_an_edit_that_is_not_there_is_told(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DposcopeError, match="names no edit"):
        TunedSide.read(named)


def test_another_value_is_no_edit(llama, tmp_path):
    Direction(random_direction(llama), "probe", -1).save(tmp_path / "edit")
    with pytest.raises(DposcopeError, match="Edit"):
        TunedSide.read(f"edit:{tmp_path}")


def test_it_is_read_once(edit, tmp_path):
    edit.save(tmp_path / "edit")
    found = TunedSide.read(tmp_path)
    for file in value_files(tmp_path / "edit").both:
        file.unlink()
    assert found.intervention().edit is found.edit
    assert found.notes == ["its gains act on activations, so no value vector changes"]


def test_gains_in_a_checkpoint_are_pointed_out(edit, llama, tmp_path):
    """As `dposcope edit`, `tune` and `dpo --train gains` leave them."""
    llama.save_pretrained(tmp_path / "run" / "model")
    assert TunedSide.read(tmp_path / "run/model").notes == []
    edit.save(tmp_path / "run" / "edit")
    (note,) = TunedSide.read(tmp_path / "run/model").notes
    assert f"explain edit:{tmp_path / 'run'}" in note


# How it was trained


@pytest.fixture
def run(tmp_path):
    """The folder that `dposcope dpo` leaves."""
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "training.json").write_text(json.dumps(TRAINING.to_json()), "utf-8")
    return tmp_path / "run"


def test_the_training_of_a_checkpoint_of_ours_is_found_beside_it(run):
    assert training_of(run / "model") == TRAINING
    assert training_of(str(run / "model")) == TRAINING


def test_the_training_of_gains_is_found_beside_their_edit(run, llama):
    edit = Edit.of(Gains(random_gains(llama)))
    edit.save(run / "edit")
    edit.save(run / "other")
    for named in (run, f"edit:{run}", run / "edit.safetensors", f"edit:{run / 'edit'}"):
        assert training_of(named) == TRAINING, named
    assert training_of(run / "other.safetensors") is None
    assert training_of("edit:gemma-3-270m") is None


def test_nothing_else_passes_for_its_training(run, tmp_path, monkeypatch):
    (run / "other").mkdir()
    assert training_of(run / "other") is None
    assert training_of(tmp_path / "missing" / "model") is None
    monkeypatch.chdir(run)
    assert training_of("model") == TRAINING
    assert training_of("gpt2") is None, "a hub id took the training of the folder it was named in"
    assert training_of("org/model") is None
    (run / "model").rmdir()
    assert training_of("model") is None, "a name that is no folder here"


@pytest.mark.parametrize("text", ["{", "[]", '{"kind": "someone else"}', "{}"])
def test_someone_elses_training_file_is_no_error(run, text):
    (run / "training.json").write_text(text)
    assert training_of(run / "model") is None
