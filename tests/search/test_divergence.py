"""The cost of an edit on neutral text, against softmaxes taken whole."""

import numpy as np
import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.evaluation.statistics.comparisons import paired_difference
from dposcope.interventions.fold import folded
from dposcope.interventions.gains import Gains
from dposcope.search.divergence import Cost, NeutralText
from helpers.families import TEXTS, tiny
from helpers.more_families import MORE

TEXT = "\n\n".join(TEXTS * 3)


def some_gains(lm, seed=0, size=0.4):
    stream = torch.Generator().manual_seed(seed)
    return Gains(1 + size * torch.randn(lm.n_blocks, lm.d_mlp, generator=stream))


def naive_cost(lm, edit, ids):
    """Per window: mean over predicted tokens of Σ q (log q − log p), and of log q(target) − log p(target)."""
    kl, rise = [], []
    for row in ids:
        base = lm.model(row[None]).logits[0, :-1].double().log_softmax(-1)
        with edit.on(lm):
            edited = lm.model(row[None]).logits[0, :-1].double().log_softmax(-1)
        tokens = [float((base[t].exp() * (base[t] - edited[t])).sum()) for t in range(len(base))]
        losses = [float(base[t, row[t + 1]] - edited[t, row[t + 1]]) for t in range(len(base))]
        kl.append(sum(tokens) / len(tokens))
        rise.append(sum(losses) / len(losses))
    return np.array(kl), np.array(rise)


@torch.no_grad()
@pytest.mark.parametrize("name", ["modernbert-decoder", "openai-gpt"])
def test_kl_is_that_of_whole_softmaxes_whatever_stands_before_the_unembedding(name):
    lm = MORE[name].build()
    edit, neutral = some_gains(lm), NeutralText.read(lm, TEXT, windows=3, length=16)
    with edit.on(lm):
        found = neutral.cost(lm)
    kl, rise = naive_cost(lm, edit, neutral.ids)
    np.testing.assert_allclose(found.kl, kl, atol=2e-6)
    np.testing.assert_allclose(found.rise, rise, atol=2e-6)
    assert kl.min() > 1e-4


@torch.no_grad()
def test_kl_and_rise_are_those_of_whole_softmaxes(lm):
    edit = some_gains(lm)
    neutral = NeutralText.read(lm, TEXT, windows=11, length=16)
    with edit.on(lm):
        found = neutral.cost(lm)
    kl, rise = naive_cost(lm, edit, neutral.ids)
    np.testing.assert_allclose(found.kl, kl, atol=2e-6)
    np.testing.assert_allclose(found.rise, rise, atol=2e-6)
    assert kl.min() > 1e-4  # the edit does something


def test_no_edit_costs_nothing_to_the_bit(lm):
    neutral = NeutralText.read(lm, TEXT, windows=9, length=16)
    found = neutral.cost(lm)
    assert not found.kl.any()
    assert not found.rise.any()


def test_a_folded_edit_costs_what_the_hooked_one_does(lm):
    edit = some_gains(lm, seed=1)
    neutral = NeutralText.read(lm, TEXT, windows=4, length=16)
    with edit.on(lm):
        hooked = neutral.cost(lm)
    with folded(lm, edit):
        within_bounds = neutral.cost(lm)
    np.testing.assert_allclose(within_bounds.kl, hooked.kl, atol=1e-5)
    assert not neutral.cost(lm).kl.any()  # and all is as before


def test_bfloat16_is_near_float32():
    lm = tiny("llama")
    edit = some_gains(lm)
    found = []
    for precision in (torch.float32, torch.bfloat16):
        lm.model.to(precision)
        neutral = NeutralText.read(lm, TEXT, windows=8, length=24)
        with edit.on(lm):
            found.append(neutral.cost(lm).divergence.mean)
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_the_draw_is_the_seeds(llama):
    one, same, other = (NeutralText.read(llama, TEXT, windows=5, length=16, seed=s).ids for s in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_an_overflow_is_an_infinite_cost():
    cost = Cost(np.array([0.1, np.nan]), np.array([0.1, np.inf]))
    assert cost.divergence.mean == np.inf
    assert cost.increase.high == np.inf


def test_means_have_intervals_over_windows():
    cost = Cost(np.array([0.1, 0.3] * 8), np.array([-0.1, 0.2] * 8))
    assert cost.divergence.mean == pytest.approx(0.2)
    assert cost.increase.mean == pytest.approx(0.05)
    assert cost.divergence.low < 0.2 < cost.divergence.high
    assert cost.increase == paired_difference([-0.1, 0.2] * 8, [0.0] * 16)


def test_bad_input_says_what_to_give(llama):
    with pytest.raises(DposcopeError, match="at least 1"):
        NeutralText.read(llama, TEXT, windows=0)
    with pytest.raises(DposcopeError, match="use a longer text"):
        NeutralText.read(llama, "a", windows=1, length=100)
