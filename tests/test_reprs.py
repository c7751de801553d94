"""What values show of themselves fits on two lines, whatever they hold."""

import dataclasses

import numpy as np
import pytest
import torch

import dposcope as ds
from dposcope.data.short import LONGEST
from helpers.families import TEXTS, random_direction, tiny
from helpers.public_types import public_types

TYPES = public_types()


class Endless:
    def __repr__(self) -> str:
        return "endless\n" * 10_000


def large(kind: str) -> object:
    """A value for a field that would fill the screen."""
    for words, value in {
        ("Tensor",): torch.ones(30, 3000),
        ("ndarray", "NDArray"): np.ones((30, 3000)),
        ("Mapping", "dict"): {f"name {number}": "text " * 50 for number in range(500)},
        ("tuple", "list", "Sequence", "frozenset", "Iterable"): ("text " * 50,) * 500,
    }.items():
        if any(word in kind for word in words):
            return value
    if "Literal" in kind or "float" in kind:
        return "residual" if "Literal" in kind else 1 / 3 * 1e-9
    plain = kind.removeprefix("<class '").removesuffix("'>").split(" | ")[0]
    return {"str": "a text\n" * 300, "int": 1_234_567_890, "bool": True}.get(plain, Endless())


@pytest.mark.parametrize("name", sorted(TYPES))
def test_every_public_value_shows_itself_in_two_lines(name):
    one = object.__new__(TYPES[name])
    for field in dataclasses.fields(one):
        object.__setattr__(one, field.name, large(str(field.type)))
    if name == "LanguageModel":
        object.__setattr__(one, "model", tiny("llama").model)
    if name == "NeuronSet":
        object.__setattr__(one, "mask", torch.ones(30, 3000, dtype=torch.bool))
    shown = repr(one)
    assert len(shown) <= LONGEST
    assert "\n" not in shown
    assert "tensor(" not in shown
    assert shown.startswith(f"{name}(")


def test_many_types_are_looked_at():
    assert {"Direction", "Contributions", "Edit", "Outcome", "LanguageModel", "Applied", "PromptSplit"} <= TYPES.keys()
    assert len(TYPES) > 80


def test_kind_shape_and_source_are_shown(llama):
    means = ds.collect_means(llama, TEXTS[:2], new_tokens=2)
    direction = ds.Direction(random_direction(llama), "probe", 2, {"model": "tiny", "seed": 0})
    shown = {
        repr(direction): "Direction(vector=[16] float64, kind='probe', block=2, about={2, model 'tiny'})",
        repr(ds.ablate(direction)): "Ablation(direction=[16] float32, weight=1, blocks=None, mlp=True, attention=True)",
        repr(ds.Gains.ones(3, 24)): "Gains(values=[3, 24] float32, positions=all, of='neurons')",
        repr(ds.Positions.ALL): "<Positions.ALL: 'all'>",
        repr(llama): "LanguageModel('tiny-llama', llama, 3 blocks, float32 on cpu)",
        repr(means): f"NeuronMeans(mean=[3, 24] float64, second_moment=[3, 24] float64, count={means.count}, "
        "about={6, model 'tiny-llama'})",
        repr(ds.Continuation([1], [2, 3], "so long " * 9)): "Continuation(prompt_ids=[1], ids=[2], "
        "text='so long so long so long so long…')",
    }
    assert list(shown) == list(shown.values())
