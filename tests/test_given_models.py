"""A model's name, or a Hugging Face model without its tokenizer, in the place of a `LanguageModel`: one line says what
to give."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dposcope as ds
from helpers.families import CIVIL, RUDE, TEXTS, random_direction, random_gains, tiny

_LM = tiny("llama")
_VECTOR, _GAINS = random_direction(_LM), random_gains(_LM)
_SET = ds.NeuronSet(_GAINS > 1)
_MEANS = ds.NeuronMeans(_GAINS.double(), _GAINS.double().square() + 1, 100)
_WRITTEN = [ds.Continuation([2, 40], [41, 42], "a b"), ds.Continuation([2, 43], [44], "c")]
_CHANGE = ds.Contributions(*[_GAINS.double()] * 4, _MEANS, _MEANS)
_SCORER = ds.function_scorer(lambda texts: [0.5] * len(texts), "half")
_PAIRS = ds.Pairs(("a",), ("b",), ("c",))

GIVEN: dict[str, Any] = {
    "alpha": 0.1,
    "block": 0,
    "c": _CHANGE,
    "comments": ds.Comments((*RUDE, *CIVIL), np.array([True] * 6 + [False] * 6)),
    "count": 1,
    "direction": _VECTOR,
    "directions": _VECTOR,
    "edit": ds.Gains(_GAINS),
    "folder": Path("nowhere"),
    "folds": 2,
    "harmless": _WRITTEN,
    "intervention": None,
    "judge": ds.WordListJudge(),
    "labels": [True, False],
    "materials": ds.Materials(tuple(TEXTS), ds.Passages((), ()), "a", _SCORER),
    "means": _MEANS,
    "before": _MEANS,
    "after": _MEANS,
    "neurons": [0],
    "non_toxic": ["kind"],
    "objective": ds.Objective(),
    "pairs": _PAIRS,
    "parts": ds.Parts(_SET),
    "path": "nowhere.gguf",
    "prompts": TEXTS,
    "schedule": ds.Schedule(),
    "scorer": _SCORER,
    "source": "nowhere",
    "subspace": ds.svd_subspace(_LM, _VECTOR, vectors=8, axes=2),
    "text": "the river is long",
    "texts": TEXTS[:2],
    "toxic": ["dumb"],
    "vector": None,
    "vectors": _VECTOR,
    "written": _WRITTEN,
}
"""Parameter → what it is given where another one is wrong."""
OTHERWISE = {
    ("attribution", "toxic"): _WRITTEN,
    ("train_policy", "trainable"): None,
    ("train_policy", "material"): ds.Material([], []),
    ("trace", "texts"): [[5, 6]],
    ("Materials.__init__", "passages"): ds.Passages((), ()),
    ("Materials.__init__", "neutral"): "a",
    ("Interchange.__init__", "parts"): ds.Parts(_SET),
}
MADE: dict[str, object] = {
    "Ablation": ds.ablate(_VECTOR),
    "Assign": ds.Assign(_GAINS, _SET),
    "Edit": ds.Edit.of(ds.Gains(_GAINS), ds.ablate(_VECTOR)),
    "Gains": ds.Gains(_GAINS),
    "Interchange": ds.Interchange(_LM, ds.Parts(_SET)),
    "NeuronSet": _SET,
    "NeutralText": ds.NeutralText(torch.ones(1, 4, dtype=torch.long), torch.zeros(1, 3, _LM.d_model)),
    "OtherWeights": ds.OtherWeights("nowhere"),
    "Parts": ds.Parts(_SET),
    "Steer": ds.Steer(_VECTOR, 1.0),
}
"""Class → a value whose methods are called."""
MADE_BY_US = {"Tuned.__init__"}
NO_CODE = {"Intervention.on"}


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function, constructor and public method, by name; a method of a value that there is."""
    for name in ds.__all__:
        found = getattr(ds, name)
        if inspect.isfunction(found):
            yield name, found
        elif inspect.isclass(found):
            for own, member in vars(found).items():
                if own == "__init__":
                    yield f"{name}.__init__", found
                elif isinstance(member, classmethod):
                    yield f"{name}.{own}", getattr(found, own)
                elif inspect.isfunction(member) and not own.startswith("_"):
                    yield f"{name}.{own}", getattr(MADE[name], own) if name in MADE else member


CASES = [
    (name, function, parameter.name)
    for name, function in functions()
    for parameter in inspect.signature(function).parameters.values()
    if "LanguageModel" in str(parameter.annotation)
    if name not in MADE_BY_US | NO_CODE
]


def call(name: str, function: Callable[..., Any], parameter: str, wrong: object) -> None:
    """Call a function with something else in the place of a model, and enter what it gives."""
    given = {
        one.name: OTHERWISE[name, one.name] if (name, one.name) in OTHERWISE else GIVEN[one.name]
        for one in inspect.signature(function).parameters.values()
        if one.default is inspect.Parameter.empty and "LanguageModel" not in str(one.annotation)
    } | {
        one.name: _LM
        for one in inspect.signature(function).parameters.values()
        if one.default is inspect.Parameter.empty and "LanguageModel" in str(one.annotation)
    }
    made = function(**(given | {parameter: wrong}))
    if isinstance(made, AbstractContextManager):
        made.__enter__()


def test_there_are_cases():
    assert len(CASES) > 60
    assert {"generate", "collect_means", "window_losses", "Edit.on", "measure", "fold"} <= {name for name, *_ in CASES}


@pytest.mark.parametrize(("name", "function", "parameter"), CASES, ids=[f"{name} {one}" for name, _, one in CASES])
def test_a_model_without_its_tokenizer_is_refused_in_one_line(name, function, parameter):
    for wrong, told in (
        (_LM.model, "is a LlamaForCausalLM without a tokenizer; give dposcope.load(model, tokenizer)"),
        ("gemma-3-270m", "is a name, and a model belongs here; give dposcope.load('gemma-3-270m')"),
        (_LM.tokenizer, "and a model belongs here; give what dposcope.load returns"),
        (None, "and a model belongs here; give what dposcope.load returns"),
    ):
        if wrong is None and inspect.signature(function).parameters[parameter].default is None:
            continue
        with pytest.raises(ds.DposcopeError) as raised:
            call(name, function, parameter, wrong)
        assert str(raised.value).startswith(f"{parameter} is a ")
        assert str(raised.value).endswith(told)
        assert "\n" not in str(raised.value)


def test_a_model_that_is_loaded_is_not_loaded_again():
    with pytest.raises(ds.DposcopeError, match="tiny-llama is loaded already; use it as it is"):
        ds.load(_LM)
    with pytest.raises(ds.DposcopeError, match="device None is unknown"):
        ds.load("gemma-3-270m", device=None)
