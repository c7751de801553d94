"""Types without neurons that can be read one by one, told by what they compute."""

import pytest

from dposcope.errors import DposcopeError
from dposcope.model.checks.unfit import UNFIT
from dposcope.model.layout import table
from helpers.families import tiny


@pytest.mark.parametrize("registered", [False, True])
@pytest.mark.parametrize("model_type", UNFIT)
def test_a_type_without_neurons_of_its_own_is_refused_in_a_line(model_type, registered, monkeypatch):
    lm = tiny("llama")
    if registered:
        monkeypatch.setitem(table._LAYOUTS, model_type, tiny("llama").layout)
    lm.model.config.model_type = model_type
    with pytest.raises(DposcopeError) as told:
        _ = lm.layout
    assert str(told.value) == f"models of the type {model_type} are not supported: {UNFIT[model_type]}"
