from dataclasses import replace

import numpy as np
import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.neurons.activations import NeuronMeans
from dposcope.neurons.contributions import Contributions, contributions
from dposcope.report.browser.neurons import GROUPS, NeuronBrowser, TokenActivations, TokenisedText
from helpers.browsers import browser, codes, lens
from helpers.changes import means_of, tuned_copy
from helpers.families import random_direction
from helpers.mixtures import shared_mixture


def activations(neurons, before, after=None) -> TokenActivations:
    return TokenActivations(np.array(neurons), np.array(before), np.array(before if after is None else after))


def test_shape_is_blocks_and_width():
    assert browser(3, 40).shape == (3, 40)


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        ({"group": np.zeros(6, np.uint8)}, r"group has shape \[6\]; give one code per neuron"),
        ({"group": np.zeros((0, 3), np.uint8)}, r"group has shape \[0, 3\]"),
        ({"group": np.zeros((2, 3))}, "group holds float64; give it as integers"),
        ({"group": np.full((2, 3), 5)}, "group holds codes 5 … 5; give 0 … 4, for none, TP, TN, AP, AN"),
        ({"group": np.full((2, 3), -1)}, "group holds codes -1"),
        ({"cosine": np.zeros((3, 2))}, r"cosine has shape \[3, 2\], group \[2, 3\]; give one value per neuron"),
        ({"certain": np.zeros((2, 3))}, "certain holds float64; give it as bool"),
        ({"mean_before": np.zeros((2, 3), int)}, "mean_before holds int64; give it as floats"),
        ({"mean_after": np.full((2, 3), np.nan)}, "6 values of mean_after are not finite in float32; measure again"),
        ({"contribution": np.array([[0, 0, 1e39], [0, 0, 0]])}, "1 value of contribution is not finite"),
        ({"cosine": np.full((2, 3), -1.01)}, "cosine leaves −1 … 1; divide"),
        ({"lenses": {6: lens("a")}}, "lenses name neuron 6, the models have 6; count as block"),
        ({"lenses": {-1: lens("a")}}, "lenses name neuron -1"),
        ({"lenses": {0: lens("a"), 1: lens("a", "b")}}, "of different lengths; take the same number"),
        ({"lenses": {0: replace(lens("a"), top_logits=[])}}, "of different lengths"),
        ({"lenses": {0: replace(lens("a"), top_logits=[np.inf])}}, "1 value of lenses is not finite"),
        ({"texts": [TokenisedText([], 0)]}, "text 1 has 0 tokens, 0 of them its prompt; give at least one"),
        ({"texts": [TokenisedText(["a"], 2)]}, "text 1 has 1 token, 2 of them its prompt"),
        ({"activations": activations([0, 0], np.zeros((2, 2)))}, "activations name a neuron twice; give each once"),
        ({"activations": activations([9], np.zeros((1, 2)))}, "activations name neuron 9"),
        ({"activations": activations([0], np.zeros((1, 3)))}, r"2 tokens of all texts together need \[1, 2\]"),
        ({"activations": activations([0], [[0, 0.0]], [[0, np.nan]])}, "1 value of activations after is not finite"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(changes, mend):
    good = browser(2, 3, n_lenses=0, n_opened=1, n_texts=1, n_tokens=2)
    with pytest.raises(DposcopeError, match=mend):
        replace(good, **changes)


def test_it_takes_its_columns_from_contributions():
    stream = torch.Generator().manual_seed(3)

    def table() -> torch.Tensor:
        return torch.randn(2, 5, generator=stream, dtype=torch.float64)

    def means() -> NeuronMeans:
        mean = table()
        return NeuronMeans(mean=mean, second_moment=mean**2 + 0.5, count=20)

    cosine = table().tanh()
    cosine[1, 4] = 0
    made = Contributions(
        cosine=cosine,
        projection_before=table(),
        projection_after=table(),
        vector_cosine=torch.ones(2, 5),
        before=means(),
        after=means(),
    )
    texts = [TokenisedText(["a", "b"], 1)]
    value = NeuronBrowser.of(made, model="base", tuned="dpo", direction="probe", texts=texts)
    np.testing.assert_array_equal(value.cosine, made.cosine.numpy())
    np.testing.assert_array_equal(value.mean_before, made.before.mean.numpy())
    np.testing.assert_array_equal(value.mean_after, made.after.mean.numpy())
    np.testing.assert_array_equal(value.contribution, made.total.numpy())
    np.testing.assert_array_equal(value.certain, made.certain.mask.numpy())
    np.testing.assert_array_equal(value.group, codes(cosine.numpy(), made.before.mean.numpy()))
    assert value.group[1, 4] == GROUPS.index("none")
    assert (value.model, value.tuned, value.direction) == ("base", "dpo", "probe")
    assert value.activations.before.shape == (0, 2)
    assert value.experts is None
    lenses = {1: lens("a")}
    full = NeuronBrowser.of(
        made, model="b", tuned="d", direction="p", lenses=lenses, notes=["n"], provenance={"seed": "0"}
    )
    assert (full.lenses, full.notes, full.provenance) == (lenses, ["n"], {"seed": "0"})


def test_it_knows_the_experts_of_a_mixture():
    base = shared_mixture("qwen3_moe")
    tuned, W = tuned_copy(base), random_direction(base)
    made = contributions(base, tuned, means_of(base), means_of(tuned), W)
    value = NeuronBrowser.of(made, model="base", tuned="dpo", direction="probe")
    assert value.experts == base.experts.count
    with pytest.raises(DposcopeError, match="neurons of a block do not divide into 7 experts"):
        replace(value, experts=7)
