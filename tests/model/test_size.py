"""Sizes from a config alone, against those of the model."""

import pytest

from dposcope.model.size import model_size, size_of
from helpers.families import MIXTURES
from helpers.mixtures import shared_mixture
from helpers.more_families import MORE
from helpers.shared_experts import SHARED, shared_mixture_of


@pytest.mark.parametrize("family", MIXTURES)
def test_a_token_passes_through_the_experts_that_it_is_sent_to(family, tmp_path):
    lm = shared_mixture(family)
    lm.model.config.save_pretrained(tmp_path)
    size = size_of(str(tmp_path))
    assert size.neurons == lm.n_neurons
    named = dict(lm.model.named_parameters())
    assert size.parameters == sum(parameter.numel() for parameter in named.values())
    of_one = sum(p.numel() // lm.experts.count for name, p in named.items() if ".experts." in name)
    resting = lm.experts.count - lm.model.config.num_experts_per_tok
    assert size.idle == resting * of_one
    assert size.body == size.parameters - size.unembedding - resting * of_one


@pytest.mark.parametrize("family", MORE)
def test_blocks_are_as_wide_as_the_widest(family):
    lm = MORE[family].build()
    assert model_size(lm.model).mlp == lm.d_mlp


@pytest.mark.parametrize("family", SHARED)
def test_shared_experts_and_dense_blocks_count_as_experts(family):
    lm = shared_mixture_of(family)
    assert model_size(lm.model).mlp == lm.d_mlp
