"""What a name on the tuned side stands for."""

import pytest

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import EditedModel
from dposcope.interventions.gains import Gains
from dposcope.interventions.tuned import edit_stem, tuned_model
from dposcope.interventions.weights import OtherWeights
from helpers.families import random_gains


def test_an_edit_or_a_model(llama, tmp_path):
    edit = Edit.of(Gains(random_gains(llama)), about={"mine": 1})
    edit.save(tmp_path / "edit")
    for named in (tmp_path, tmp_path / "edit", f"edit:{tmp_path}"):
        found = tuned_model(named)
        assert isinstance(found, EditedModel)
        assert found.edit.about == {"mine": 1}
    (tmp_path / "config.json").write_text("{}")
    for named in (tmp_path, "org/model", "gemma-3-270m"):
        assert tuned_model(named) == OtherWeights(named)
    assert edit_stem(tmp_path) is None
    assert edit_stem(f"edit:{tmp_path}") == tmp_path / "edit"


def test_a_named_edit_that_is_not_there_is_told(tmp_path):
    with pytest.raises(DposcopeError, match=r"edit:.* names no edit; give its edit.safetensors, .*edit:gemma-3-270m"):
        tuned_model(f"edit:{tmp_path}")
