"""Activations of chosen neurons, token by token."""

import numpy as np
import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.model.batches import encode
from dposcope.neurons.traces import trace
from helpers import alternating
from helpers.families import TEXTS


def naive(lm, ids, neurons):
    """One text alone, each block's output projection watched by a hook of the test's own."""
    seen = {}
    handles = [
        module.register_forward_pre_hook(lambda _m, args, block=block: seen.__setitem__(block, args[0][0].detach()))
        for block, module in enumerate(lm.mlp_outs)
    ]
    with torch.no_grad():
        lm.model(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return np.array([[float(seen[n // lm.d_mlp][t, n % lm.d_mlp]) for t in range(len(ids))] for n in neurons])


def test_traces_are_those_of_each_text_alone(lm):
    texts = encode(lm, TEXTS)
    neurons = [lm.n_neurons - 1, 0, lm.d_mlp, 3, lm.d_mlp - 1]
    expected = np.concatenate([naive(lm, ids, neurons) for ids in texts], axis=1)
    found = trace(lm, texts, neurons, batch_size=3)
    assert found.shape == (5, sum(map(len, texts)))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=5e-6)


def test_a_batch_equals_its_members(lm):
    texts = encode(lm, TEXTS)
    neurons = list(range(0, lm.n_neurons, 7))
    alone = np.concatenate([trace(lm, [ids], neurons) for ids in texts], axis=1)
    np.testing.assert_allclose(trace(lm, texts, neurons, batch_size=len(texts)), alone, rtol=1e-4, atol=5e-6)


def test_no_neuron_gives_no_row(llama):
    assert trace(llama, [[1, 2, 3]], []).shape == (0, 3)


def test_bad_input_is_told(llama):
    with pytest.raises(DposcopeError, match="no text to trace"):
        trace(llama, [], [0])
    with pytest.raises(DposcopeError, match="an empty one"):
        trace(llama, [[1], []], [0])
    with pytest.raises(DposcopeError, match="the model has"):
        trace(llama, [[1]], [llama.n_neurons])


def test_an_absent_neuron_has_no_activation():
    lm = alternating.made("dense")
    found = trace(lm, [[2, 40, 41]], [0, lm.d_mlp + 3])
    assert not found[0].any()
    assert found[1].any()
