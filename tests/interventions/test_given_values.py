"""Values as numpy, torch and tables give them, and what is none of these: the same edit, or one clear line."""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

import dposcope as ds
from helpers.families import CIVIL, RUDE, TEXTS, random_direction, random_gains, tiny


def _written(lm: Any, one: Any) -> list[list[int]]:
    with one.on(lm):
        return [written.ids for written in ds.generate(lm, TEXTS, new_tokens=4)]


@pytest.mark.parametrize("kind", [list, range, np.array, torch.tensor, lambda blocks: torch.tensor([*blocks, 1])])
def test_blocks_of_any_kind_make_the_same_ablation(tmp_path, kind):
    lm = tiny("llama")
    blocks = kind(range(2)) if kind is not range else range(2)
    edit = ds.Edit.of(ds.ablate(random_direction(lm), weight=np.float32(0.5), blocks=blocks))
    assert _written(lm, edit) == _written(lm, ds.ablate(random_direction(lm), weight=0.5, blocks=(0, 1)))
    edit.save(tmp_path / "edit")
    assert ds.Edit.load(tmp_path / "edit").ablations[0].blocks == (0, 1)
    assert json.loads((tmp_path / "edit.json").read_text())["ablations"][0]["weight"] == 0.5


def test_blocks_of_a_tensor_choose_all_neurons_of_those_blocks():
    every = ds.NeuronSet.all(3, 5)
    assert every.in_blocks(torch.tensor([0, -1])).per_block == [5, 0, 5]
    assert every.in_blocks(np.array([0, -1])).per_block == [5, 0, 5]
    assert ds.Parts(mlps=torch.tensor([0, 2])).mlps == {0, 2}


def test_numbers_of_numpy_seed_and_sample_as_those_of_python():
    lm = tiny("llama")
    for seed in np.arange(2, dtype=np.int32):
        drawn = ds.generate(lm, TEXTS, new_tokens=3, sampling=ds.Sampling(seed=seed))
        assert drawn == ds.generate(lm, TEXTS, new_tokens=3, sampling=ds.Sampling(seed=int(seed)))
        some = ds.NeuronSet(random_gains(lm) > 1)
        assert some.random_like(seed) == some.random_like(int(seed))
        assert torch.equal(
            ds.Direction(random_direction(lm), "x", -1).random_like(seed).vector,
            ds.Direction(random_direction(lm), "x", -1).random_like(int(seed)).vector,
        )


@pytest.mark.parametrize("kind", [np.array, pl.Series, tuple, iter])
def test_texts_of_any_kind_of_list(kind):
    lm = tiny("llama")
    assert ds.generate(lm, kind(TEXTS), new_tokens=2) == ds.generate(lm, TEXTS, new_tokens=2)
    means = ds.collect_means(lm, kind(TEXTS), new_tokens=2)
    assert torch.equal(means.mean, ds.collect_means(lm, TEXTS, new_tokens=2).mean)
    assert means.about["prompts"] == len(TEXTS)
    folded = ds.collect_by_fold(lm, kind(TEXTS), 2, new_tokens=2)
    assert torch.equal(folded.whole.mean, means.mean)
    labels = [True] * len(RUDE) + [False] * len(CIVIL)
    plain = ds.mean_difference(lm, RUDE + CIVIL, labels)
    assert torch.equal(ds.mean_difference(lm, kind(RUDE + CIVIL), labels).vector, plain.vector)
    scorer = ds.load_scorer("profanity")
    assert scorer(kind(TEXTS)).tolist() == scorer(TEXTS).tolist()


def test_token_ids_to_trace_may_be_arrays_and_tensors():
    lm = tiny("llama")
    plain = ds.trace(lm, [[5, 6, 7], [8, 9, 10]], [0, 30])
    for given in (np.array([[5, 6, 7], [8, 9, 10]]), torch.tensor([[5, 6, 7], [8, 9, 10]])):
        assert ds.trace(lm, given, np.array([0, 30])).tolist() == plain.tolist()
    with pytest.raises(ds.DposcopeError, match="one text was given"):
        ds.trace(lm, [5, 6, 7], [0])


def test_a_second_model_may_be_made_of_gains_or_of_an_ablation():
    lm = tiny("llama")
    for part in (ds.Gains(random_gains(lm)), ds.ablate(random_direction(lm))):
        with ds.edited(lm, part) as other:
            found = ds.generate(other, TEXTS, new_tokens=4)
        with part.on(lm):
            assert [one.ids for one in found] == [one.ids for one in ds.generate(lm, TEXTS, new_tokens=4)]


_VALUES, _MASK = torch.ones(3, 24), torch.ones(3, 24, dtype=torch.bool)
_SET = ds.NeuronSet(_MASK)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda lm: ds.generate(lm, ["a", None]), "number 2 of prompts is a NoneType and no text"),
        (lambda lm: ds.generate(lm, None), "prompts is a NoneType, and a list of texts"),
        (lambda lm: ds.generate(lm, b"a"), "prompts is one text"),
        (lambda lm: ds.generate(lm, ["a"], new_tokens=2.0), "new_tokens 2.0 is no whole number"),
        (lambda lm: ds.generate(lm, ["a"], batch_size=2.0), "batch_size 2.0 is no whole number"),
        (lambda lm: ds.generate(lm, ["a"], max_prompt_tokens=2.5), "2.5 is no whole number"),
        (lambda lm: ds.generate(lm, "\ud83d"), "half of a character"),
        (lambda lm: ds.load_scorer("profanity")(ds.generate(lm, ["a"])), "number 1 of texts is a Continuation"),
        (lambda lm: ds.continuation_losses(lm, ["a"]), "a str is no continuation"),
        (lambda lm: ds.Sampling(seed=1.5), "seed 1.5 is no whole number"),
        (lambda lm: ds.Sampling(temperature="1"), "temperature '1' is no number"),
        (lambda lm: ds.ablate(_VALUES[0], blocks=1), r"blocks 1 are no list .* in brackets"),
        (lambda lm: ds.ablate(_VALUES[0], blocks="01"), "block '0' is no whole number"),
        (lambda lm: ds.ablate(_VALUES[0], weight="1"), "weight '1' is no number"),
        (lambda lm: ds.Steer(_VALUES[0], "1"), "alpha '1' is no number"),
        (lambda lm: ds.Steer(_VALUES[0], 1.0, block=1.0), "block 1.0 is no whole number"),
        (lambda lm: ds.Gains(_VALUES.numpy()), "gains are a ndarray and no tensor"),
        (lambda lm: ds.Gains(_VALUES).only(_MASK), "a Tensor is no set of neurons"),
        (lambda lm: ds.Gains(_VALUES).shuffled(0, among=ds.NeuronSet.all(3, 25)), "do not fit gains"),
        (lambda lm: ds.Assign(_VALUES, _MASK), "a Tensor is no set of neurons"),
        (lambda lm: ds.Assign(_VALUES.numpy(), _SET), "values to assign are a ndarray"),
        (lambda lm: ds.Parts(neurons=_MASK), "a Tensor is no set of neurons"),
        (lambda lm: ds.Parts.blocks(2), "no list of blocks"),
        (lambda lm: _SET | _MASK, "a Tensor is no set of neurons"),
        (lambda lm: _SET - None, "a NoneType is no set of neurons"),
        (lambda lm: _SET.random_like(0, among=_MASK), "a Tensor is no set of neurons"),
        (lambda lm: ds.NeuronSet([[True]]), "neurons are a list and no tensor"),
        (lambda lm: ds.Edit.of(ds.Steer(_VALUES[0], 1.0)), "a Steer is no part of an Edit"),
        (lambda lm: ds.Edit.of([ds.Gains(_VALUES)]), "a list is no part of an Edit"),
        (lambda lm: ds.Edit.of(ds.Gains(_VALUES)).strength("1"), "strength '1' is no number"),
        (lambda lm: ds.lens(lm, _VALUES[0].numpy()), "vectors are a ndarray and no tensor"),
        (lambda lm: ds.lens(lm, torch.tensor(1.0)), "a vector to read is one number"),
    ],
)
def test_what_is_none_of_these_is_refused_in_one_line(make, told):
    with pytest.raises(ds.DposcopeError, match=told) as raised:
        make(tiny("llama"))
    assert "\n" not in str(raised.value)
