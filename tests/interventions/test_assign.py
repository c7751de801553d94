"""Assign: m_i := c_i for a set of neurons."""

from dataclasses import replace

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.assign import Assign
from dposcope.model.frames import Positions
from dposcope.neurons.sets import NeuronSet
from helpers.families import assert_close, copied, logits_of, trace

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]


def everything(lm):
    return NeuronSet.all(lm.n_blocks, lm.d_mlp)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_self_patch_does_nothing_to_the_bit(lm, dtype):
    """Assign to one token exactly the activations it has."""
    lm = copied(lm)
    lm.model.to(dtype)
    plain = trace(lm, [41])
    own = torch.stack([m[0] for m in plain.neurons])
    for neurons in (everything(lm), NeuronSet(own > 0)):
        for where in Positions:
            with Assign(own, neurons, positions=where).on(lm):
                assert torch.equal(logits_of(lm, [41]), plain.logits)


def test_chosen_neurons_are_set_and_no_others(lm):
    values = torch.randn(lm.n_blocks, lm.d_mlp, generator=torch.Generator().manual_seed(0))
    neurons = NeuronSet(values > 0.2)

    def rule(block, m):
        m = m.clone()
        for neuron in range(lm.d_mlp):
            if values[block, neuron] > 0.2:
                m[:, neuron] = values[block, neuron]
        return m

    expected = trace(lm, IDS, neurons=rule).logits
    with Assign(values, neurons, positions=Positions.ALL).on(lm):
        assert_close(logits_of(lm, IDS), expected)


def test_entries_outside_the_set_are_never_read(llama):
    neurons = NeuronSet.empty(llama.n_blocks, llama.d_mlp).mask
    neurons[1, 5] = True
    values = torch.full(neurons.shape, float("nan"))
    values[1, 5] = 0.5
    with Assign(values, NeuronSet(neurons)).on(llama) as applied:
        logits = logits_of(llama, IDS)
    assert applied.fired == {"neurons.1": 1}
    assert logits.isfinite().all()
    assert not torch.equal(logits, logits_of(llama, IDS))


def test_it_acts_at_last_unless_told(llama):
    assign = Assign(torch.zeros(llama.n_blocks, llama.d_mlp), everything(llama))
    assert assign.positions is Positions.LAST
    assert replace(assign, positions="prompt").positions is Positions.PROMPT
    assert assign.positions is Positions.LAST


def test_values_are_apart_from_the_caller(llama):
    mine = torch.zeros(llama.n_blocks, llama.d_mlp)
    assign = Assign(mine, everything(llama))
    mine += 1
    assert (assign.values == 0).all()


def test_what_does_not_fit_is_refused(llama):
    with pytest.raises(DposcopeError, match=r"values have shape \[2, 3\], the neuron set \[2, 4\]"):
        Assign(torch.zeros(2, 3), NeuronSet.empty(2, 4))
    with pytest.raises(DposcopeError, match="values to assign hold NaN or infinity"):
        Assign(torch.full((2, 3), float("nan")), NeuronSet.all(2, 3))
    with pytest.raises(DposcopeError, match=r"\[2, 3\] neurons do not fit a model with \[3, 24\]"):
        Assign(torch.zeros(2, 3), NeuronSet.all(2, 3)).on(llama).__enter__()
