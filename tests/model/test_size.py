"""Sizes from a config alone, against those of the model."""

import pytest

from dposcope.model.size import size_of
from helpers.families import MIXTURES
from helpers.mixtures import shared_mixture


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
