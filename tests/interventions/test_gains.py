"""Gains: m_i := g_i m_i, as a value and as hooks."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dposcope.errors import DposcopeError
from dposcope.interventions.gains import Gains
from dposcope.model.frames import Positions
from dposcope.neurons.sets import NeuronSet
from helpers.families import assert_close, copied, hook_count, logits_of, random_gains, trace

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]


def test_every_neuron_is_multiplied_by_its_gain(lm):
    values = random_gains(lm)
    expected = trace(
        lm, IDS, neurons=lambda block, m: torch.stack([m[:, i] * g for i, g in enumerate(values[block])], 1)
    )
    with Gains(values).on(lm):
        assert_close(logits_of(lm, IDS), expected.logits)


def test_one_gain_changes_one_neuron(gpt2):
    values = torch.ones(gpt2.n_blocks, gpt2.d_mlp)
    values[1, 7] = -2.0
    gains = Gains(values)
    assert len(gains.touched) == 1
    with gains.on(gpt2) as applied:
        changed = logits_of(gpt2, IDS)
    assert applied.fired == {"neurons.1": 1}

    def rule(block, m):
        m = m.clone()
        if block == 1:
            m[:, 7] *= -2
        return m

    assert torch.equal(changed, trace(gpt2, IDS, neurons=rule).logits)


def test_in_bfloat16_the_product_is_rounded_once(llama):
    """A gain of 1.003 rounded to bfloat16 beforehand would be 1.0."""
    lm = copied(llama)
    lm.model.to(torch.bfloat16)
    seen, gain = {}, 1.003
    with Gains(torch.full((lm.n_blocks, lm.d_mlp), gain)).on(lm):
        handles = [
            module.register_forward_pre_hook(lambda _m, args, block=block: seen.update({block: args[0][0]}))
            for block, module in enumerate(lm.mlp_outs)
        ]
        logits_of(lm, IDS)
        for handle in handles:
            handle.remove()
    plain = trace(lm, IDS).neurons[0]
    exact = (plain.double() * gain).bfloat16()
    assert torch.equal(seen[0], exact)
    assert not torch.equal(seen[0], plain)


def test_the_gains_furthest_from_1_and_those_alone():
    gains = Gains(torch.tensor([[1.0, 1.4, 0.7], [0.2, 1.0, 1.05]]))
    assert gains.furthest(2).mask.tolist() == [[False, True, False], [True, False, False]]
    assert torch.equal(gains.only(gains.furthest(2)).values, torch.tensor([[1.0, 1.4, 1.0], [0.2, 1.0, 1.0]]))
    with pytest.raises(DposcopeError, match="cannot take the top 7 of 6"):
        gains.furthest(7)


def test_neurons_of_another_shape_are_refused():
    gains = Gains(torch.full((3, 4), 2.0))
    for shape in ((1, 4), (3, 1), (2, 4)):
        with pytest.raises(
            DposcopeError, match=r"neurons of \[., .\] do not fit gains of \[3, 4\]; use a set of the s"
        ):
            gains.only(NeuronSet(torch.ones(shape, dtype=torch.bool)))


def test_gains_of_some_blocks():
    gains = Gains(torch.tensor([[1.5, 0.5], [0.2, 3.0], [0.7, 0.0]]))
    assert torch.equal(gains.in_blocks([2, 0]).values, torch.tensor([[1.5, 0.5], [1.0, 1.0], [0.7, 0.0]]))
    assert len(gains.in_blocks([]).touched) == 0


@given(st.floats(-3, 3), st.integers(0, 1000))
def test_strength_moves_along_the_line_through_one(factor, seed):
    values = 1 + torch.randn(2, 7, generator=torch.Generator().manual_seed(seed))
    values[0, 0] = 1.0
    gains = Gains(values)
    scaled = gains.strength(factor)
    torch.testing.assert_close(scaled.values, 1 + factor * (values - 1), rtol=0, atol=2e-6)
    assert scaled.values[0, 0] == 1.0
    torch.testing.assert_close(scaled.strength(0.0).values, torch.ones(2, 7), rtol=0, atol=0)
    if abs(factor) > 0.1:
        torch.testing.assert_close(scaled.strength(1 / factor).values, values, rtol=0, atol=1e-4)


@given(st.integers(0, 10_000))
def test_shuffled_gains_keep_each_blocks_values(seed):
    values = torch.randn(3, 11, generator=torch.Generator().manual_seed(seed))
    shuffled = Gains(values).shuffled(seed).values
    assert torch.equal(shuffled.sort(1).values, values.sort(1).values)
    assert torch.equal(shuffled, Gains(values).shuffled(seed).values)


def test_shuffling_moves_gains_and_depends_on_the_seed():
    values = torch.arange(200.0).view(2, 100)
    gains = Gains(values, positions=Positions.LAST)
    shuffled = gains.shuffled(1)
    assert (shuffled.values != values).double().mean() > 0.9
    assert not torch.equal(shuffled.values, gains.shuffled(2).values)
    # Blocks are shuffled apart from each other.
    assert not torch.equal(shuffled.values[0] + 100, shuffled.values[1])
    assert shuffled.positions is Positions.LAST


def test_touched_are_the_gains_that_are_not_one():
    assert Gains(torch.tensor([[1.0, 0.5], [1.0, 1.0]])).touched.mask.tolist() == [[False, True], [False, False]]
    assert len(Gains.ones(2, 3).touched) == 0


def test_values_are_kept_as_float32_and_apart_from_the_caller():
    mine = torch.full((1, 2), 0.1, dtype=torch.float64, requires_grad=True)
    gains = Gains(mine)
    assert gains.values.dtype == torch.float32
    assert not gains.values.requires_grad
    with torch.no_grad():
        mine += 1
    assert gains.values.tolist() == torch.full((1, 2), 0.1).tolist()


def test_float32_values_are_apart_from_the_caller_too():
    mine = torch.full((1, 2), 0.5)
    gains = Gains(mine)
    mine += 1
    assert gains.values.tolist() == [[0.5, 0.5]]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_gains_must_be_finite(bad):
    with pytest.raises(DposcopeError, match="NaN or infinity; every gain must be a finite number"):
        Gains(torch.tensor([[1.0, bad]]))


def test_gains_must_have_two_dimensions_and_fit_the_model(llama):
    with pytest.raises(DposcopeError, match=r"shape \[L, d_mlp\], not \[3\]"):
        Gains(torch.ones(3))
    with pytest.raises(DposcopeError, match=r"\[3, 23\] neurons do not fit a model with \[3, 24\]"):
        Gains(torch.ones(3, 23)).on(llama).__enter__()


def test_gains_on_an_unsuitable_model_leave_no_hook(llama):
    with pytest.raises(DposcopeError):
        Gains(torch.ones(2, 24)).on(llama).__enter__()
    assert hook_count(llama.model) == 0
