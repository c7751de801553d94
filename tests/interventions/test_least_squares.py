"""Least-squares gains against a general solver, and what their optimum must satisfy."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from dposcope.errors import DposcopeError
from dposcope.interventions.least_squares import LeastSquares
from dposcope.neurons.activations import NeuronMeans, collect_means
from helpers.families import TEXTS, naive_vectors, random_direction


def naive_terms(lm, means, W, disturbed):
    """E[m_i] (v_i·u) and E[m_i²] |v_i|², neuron by neuron."""
    pull, cost = torch.zeros_like(means.mean), torch.zeros_like(means.mean)
    for block in range(lm.n_blocks):
        u = W if W.ndim == 1 else W[block]
        for i, v in enumerate(naive_vectors(lm, block)):
            pull[block, i] = means.mean[block, i] * (v @ (u / u.norm()))
            cost[block, i] = disturbed.second_moment[block, i] * (v @ v)
    return pull, cost


def test_terms_are_those_of_the_problem(lm):
    means, other = (collect_means(lm, part, new_tokens=4) for part in (TEXTS[:4], TEXTS[4:]))
    for W in (random_direction(lm), torch.stack([random_direction(lm) * (b + 1) for b in range(lm.n_blocks)])):
        problem = LeastSquares.of(lm, means, W, disturbed=other)
        pull, cost = naive_terms(lm, means, W.double(), other)
        torch.testing.assert_close(problem.pull, pull, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(problem.cost, cost, rtol=1e-9, atol=1e-12)


def random_problem(seed, size=12):
    stream = torch.Generator().manual_seed(seed)
    pull = torch.randn(2, size // 2, generator=stream, dtype=torch.float64)
    return LeastSquares(pull, torch.rand(2, size // 2, generator=stream, dtype=torch.float64) + 0.05)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("share", "bounds"), [(0.1, (0.0, 2.0)), (0.5, (0.0, 2.0)), (0.9, (0.5, 3.0)), (0.4, (0, 1))])
def test_gains_are_what_a_general_solver_finds(seed, share, bounds):
    problem = random_problem(seed)
    pull, cost = problem.pull.flatten().numpy(), problem.cost.flatten().numpy()
    low, high = bounds[0] - 1, bounds[1] - 1
    most = sum(-p * (low if p > 0 else high) for p in pull)
    found = minimize(
        lambda d: float(cost @ d**2),
        np.zeros_like(pull),
        jac=lambda d: 2 * cost * d,
        bounds=[(low, high)] * len(pull),
        constraints={"type": "eq", "fun": lambda d: float(pull @ d) + share * most, "jac": lambda _: pull},
        method="SLSQP",
        options={"maxiter": 500, "ftol": 1e-12},
    )
    assert found.success
    gains = problem.gains(share, least=bounds[0], most=bounds[1]).values.flatten().numpy()
    np.testing.assert_allclose(gains, 1 + found.x, atol=2e-4)
    assert -float(pull @ (gains - 1)) == pytest.approx(share * most, rel=1e-5)


def test_nothing_wanted_leaves_every_gain_at_one_and_everything_puts_all_at_a_bound():
    problem = random_problem(0)
    assert len(problem.gains(0.0).touched) == 0
    assert set(problem.gains(1.0, least=0.25, most=1.5).values.flatten().tolist()) == {0.25, 1.5}


def test_a_neuron_silent_on_the_text_to_be_left_alone_moves_first():
    problem = LeastSquares(
        torch.tensor([[1.0, 1.0]], dtype=torch.float64), torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    )
    torch.testing.assert_close(problem.gains(0.25).values, torch.tensor([[0.5, 1.0]]), atol=1e-6, rtol=0)


def test_bad_input_says_what_to_give(llama):
    means, W = collect_means(llama, TEXTS, new_tokens=2), random_direction(llama)
    problem = LeastSquares.of(llama, means, W)
    with pytest.raises(DposcopeError, match=r"share of 1\.5 is outside"):
        problem.gains(1.5)
    with pytest.raises(DposcopeError, match="the bounds hold 1"):
        problem.gains(0.5, least=1.2, most=3)
    with pytest.raises(DposcopeError, match="norm zero"):
        LeastSquares.of(llama, means, torch.zeros(llama.d_model))
    with pytest.raises(DposcopeError, match="one per block"):
        LeastSquares.of(llama, means, W[:-1])
    with pytest.raises(DposcopeError, match="collect them with this model"):
        LeastSquares.of(llama, NeuronMeans(means.mean[:1], means.second_moment[:1], 3), W)
