"""The paper's edit, neuron by neuron: shrink TP and AN, grow TN and AP."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dposcope.errors import DposcopeError
from dposcope.interventions.group_gains import gains_of, group_assign, group_gains
from dposcope.model.frames import Positions
from dposcope.neurons.activations import NeuronMeans, collect_means
from dposcope.neurons.groups import Group, select_fraction
from helpers.families import TEXTS, naive_vectors, random_direction

FACTOR = {"TP": -1, "TN": 1, "AP": 1, "AN": -1}


def naive_gains(lm, means, W, alpha, beta, groups):
    gains = torch.ones(lm.n_blocks, lm.d_mlp, dtype=torch.float64)
    members = {name: [] for name in FACTOR}
    for block in range(lm.n_blocks):
        for i, v in enumerate(naive_vectors(lm, block)):
            cos, m = (v @ W / (v.norm() * W.norm())).item(), means.mean[block, i].item()
            if cos and m:
                members[("T" if cos > 0 else "A") + ("P" if m > 0 else "N")].append((-abs(cos), block, i))
    for name in groups:
        ranked = sorted(members[name])
        for _, block, i in ranked[: math.floor(beta * len(ranked))]:
            gains[block, i] = 1 + alpha * FACTOR[name]
    return gains


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.55), (0.3, 0.5), (0.01, 1.0), (0.5, 0.0)])
def test_gains_are_one_plus_or_minus_alpha(lm, alpha, beta):
    means, W = collect_means(lm, TEXTS, new_tokens=4), random_direction(lm)
    gains = group_gains(lm, means, W, alpha=alpha, beta=beta)
    torch.testing.assert_close(gains.values, naive_gains(lm, means, W, alpha, beta, FACTOR).float(), rtol=0, atol=0)
    assert gains.positions is Positions.ALL


def test_every_edited_neuron_lowers_its_projection_on_the_direction(lm):
    """Which is what the signs are for: g m (v·W) < m (v·W) in all four groups."""
    means, W = collect_means(lm, TEXTS, new_tokens=4), random_direction(lm)
    gains = group_gains(lm, means, W, alpha=0.2, beta=1.0).values.double()
    dots = torch.stack([naive_vectors(lm, block) @ W for block in range(lm.n_blocks)])
    before, after = means.mean * dots, gains * means.mean * dots
    assert ((after < before) | (before == 0)).all()


def test_groups_can_be_edited_alone(llama):
    means, W = collect_means(llama, TEXTS, new_tokens=4), random_direction(llama)
    for chosen in ([Group.TP], [Group.AN, Group.TN], []):
        gains = group_gains(llama, means, W, alpha=0.2, beta=0.5, groups=chosen)
        expected = naive_gains(llama, means, W, 0.2, 0.5, [group.value for group in chosen])
        assert torch.equal(gains.values, expected.float())


def grid(seed):
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(2, 2, 15, generator=stream, dtype=torch.float64).unbind()


@given(st.integers(0, 200), st.floats(0, 1), st.floats(0, 2), st.sampled_from(["cosine", "activation", "reference"]))
def test_assigned_values_are_shifted_means(seed, beta, alpha, ranking):
    cosine, mean = grid(seed)
    selection = select_fraction(cosine, mean, beta=beta, ranking=ranking)
    assign = group_assign(NeuronMeans(mean, mean.square(), 3), selection, alpha=alpha)
    gains = gains_of(selection, alpha=alpha)
    assert assign.positions is Positions.LAST
    for block in range(2):
        for i in range(15):
            groups = [group for group, chosen in selection.sets.items() if chosen.mask[block, i]]
            assert assign.neurons.mask[block, i] == bool(groups)
            factor = 1 + alpha * FACTOR[groups[0].value] if groups else 1.0
            assert gains.values[block, i].item() == pytest.approx(factor, rel=1e-6)
            if groups:
                assert assign.values[block, i].item() == pytest.approx(factor * mean[block, i].item(), rel=1e-6)


def test_alpha_zero_still_assigns_but_gains_nothing():
    cosine, mean = grid(0)
    selection = select_fraction(cosine, mean, beta=0.5)
    assert len(gains_of(selection, alpha=0.0).touched) == 0
    assert len(group_assign(NeuronMeans(mean, mean, 3), selection, alpha=0.0).neurons) > 10


@pytest.mark.parametrize("alpha", [-0.1, float("nan")])
def test_alpha_below_zero_is_refused(llama, alpha):
    means = collect_means(llama, TEXTS, new_tokens=2)
    with pytest.raises(DposcopeError, match=r"alpha .* is negative; it is a relative shift of 0 or more"):
        group_gains(llama, means, random_direction(llama), alpha=alpha)
    cosine, mean = grid(0)
    with pytest.raises(DposcopeError, match="alpha"):
        group_assign(NeuronMeans(mean, mean, 3), select_fraction(cosine, mean, beta=0.5), alpha=alpha)


def test_beta_and_shapes_are_checked(llama, family_lm):
    means = collect_means(llama, TEXTS, new_tokens=2)
    with pytest.raises(DposcopeError, match="beta 2 is outside"):
        group_gains(llama, means, random_direction(llama), alpha=0.1, beta=2)
    other = family_lm("smollm")
    with pytest.raises(DposcopeError, match=r"\[2, 40\].*\[3, 24\]|\[3, 24\].*\[2, 40\]"):
        group_gains(other, means, random_direction(other), alpha=0.1)
