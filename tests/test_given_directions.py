"""Functions take a `Direction` or a vector `[d]`, with one result, and refuse anything else in one line."""

import inspect
from collections.abc import Callable

import numpy as np
import pytest
import torch

import dposcope as ds
from dposcope.errors import DposcopeError
from helpers.families import TEXTS, random_direction
from helpers.labelled import LABELS
from helpers.labelled import TEXTS as LABELLED

PROMPTS = TEXTS[:3]


def steered(lm: ds.LanguageModel, direction: object) -> list[str]:
    with ds.Steer(direction, alpha=3.0).on(lm):
        return [one.text for one in ds.generate(lm, PROMPTS, new_tokens=6)]


CALLS: dict[str, Callable[[ds.LanguageModel, object], object]] = {
    "Ablation": lambda lm, w: ds.Ablation(w).direction,
    "Family": lambda lm, w: ds.Family({}, w, lm.n_blocks).edit(ds.Point("none", ablate=1.0)).ablations[0].direction,
    "LeastSquares.of": lambda lm, w: ds.LeastSquares.of(lm, means(lm), w).pull,
    "Steer": steered,
    "Direction.cosine": lambda lm, w: ds.Direction(random_direction(lm, 1), "other", 0).cosine(w),
    "ablate": lambda lm, w: ds.ablate(w, weight=0.5).direction,
    "along": lambda lm, w: ds.along(change(lm, random_direction(lm, 1)), lm, lm, w).to_polars(),
    "contributions": lambda lm, w: change(lm, w).to_polars(),
    "cosines": ds.cosines,
    "direction_scorer": lambda lm, w: ds.direction_scorer(lm, w, ds.Comments(tuple(LABELLED), LABELS))(TEXTS),
    "explain": lambda lm, w: ds.explain(lm, lm, w, PROMPTS, toxic_sets=(8, 16), new_tokens=3).contributions.to_polars(),
    "group_gains": lambda lm, w: ds.group_gains(lm, means(lm), w, alpha=0.3).values,
    "lens": lambda lm, w: ds.lens(lm, w, k=3),
    "perturbed_continuations": lambda lm, w: ds.perturbed_continuations(lm, PROMPTS, w, new_tokens=4),
    "projections": ds.projections,
    "svd_subspace": lambda lm, w: ds.svd_subspace(lm, w, vectors=8, axes=2).axes,
    "toxic_neurons": lambda lm, w: ds.toxic_neurons(lm, w, ds.WordListJudge(), n=8, k=2).aligned.index,
}
"""Function → a call of it whose result shows the direction."""


def means(lm: ds.LanguageModel) -> ds.NeuronMeans:
    stream = torch.Generator().manual_seed(5)
    mean = torch.randn(lm.n_blocks, lm.d_mlp, generator=stream, dtype=torch.float64)
    return ds.NeuronMeans(mean, mean.square() + 1, 100)


def change(lm: ds.LanguageModel, direction: object) -> ds.Contributions:
    return ds.contributions(lm, lm, means(lm), means(lm), direction)


def same(one: object, other: object) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return bool((one == other).all())
    return one.equals(other) if hasattr(one, "equals") else one == other


def test_every_function_with_a_direction_is_in_the_table():
    found = set()
    for name in ds.__all__:
        one = getattr(ds, name)
        members = {name: one} if inspect.isfunction(one) or inspect.isclass(one) else {}
        if inspect.isclass(one):
            members |= {
                f"{name}.{own}": getattr(function, "__func__", function)
                for own, function in vars(one).items()
                if not own.startswith("_") and inspect.isfunction(getattr(function, "__func__", function))
            }
        for label, function in members.items():
            parameters = (
                vars(function).get("__annotations__", {}) if inspect.isclass(function) else function.__annotations__
            )
            if any("Direction" in str(kind) for given, kind in parameters.items() if given != "return"):
                found.add(label)
    made_by_us = {"Explanation", "Subspace"}
    several = {"to_repeng", "to_steering_vectors", "write_control_vector"}  # see `directions/test_exchange.py`
    assert found == CALLS.keys() - {"Ablation"} | made_by_us | several


@pytest.mark.parametrize("name", CALLS)
def test_a_direction_and_its_vector_are_one(lm, name):
    vector = random_direction(lm).float()
    results = [CALLS[name](lm, given) for given in (ds.Direction(vector, "mine", -1), vector, vector.double())]
    assert same(results[0], results[1])
    assert same(results[0], results[2])
    other = CALLS[name](lm, random_direction(lm, 7))
    assert not same(results[0], other)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ("LeastSquares.of", "lens")])
def test_what_is_no_direction_is_refused_in_one_line(llama, name):
    wrong = {
        "norm zero": torch.zeros(llama.d_model),
        "NaN or infinite": torch.full((llama.d_model,), torch.nan),
        r"one vector \[d\], not \[2, 16\]": torch.ones(2, llama.d_model),
        "not a list": [1.0] * llama.d_model,
    }
    if name not in ("Ablation", "Family", "ablate", "Direction.cosine"):  # they know no model yet
        wrong[r"the direction has shape \[5\], the model's residual stream \[16\]"] = torch.ones(5)
    for line, given in wrong.items():
        with pytest.raises(DposcopeError, match=line) as told:
            CALLS[name](llama, given)
        assert "\n" not in str(told.value)


def test_a_tensor_of_another_kind_or_device_is_taken(llama):
    vector = random_direction(llama)
    for given in (vector.bfloat16(), vector.to(torch.float16), vector.requires_grad_()):
        assert torch.equal(ds.cosines(llama, given), ds.cosines(llama, given.detach().double()))


def test_directions_of_two_models_have_no_cosine(llama):
    with pytest.raises(DposcopeError, match="of widths 16 and 5 are of different models"):
        ds.Direction(random_direction(llama), "mine", 0).cosine(torch.ones(5))
