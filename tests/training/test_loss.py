"""The DPO loss as a formula of summed log-probabilities, against the paper's equation written out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dposcope.training.loss import dpo_terms, likelihood_losses, mean_by, sum_by

LOGP = st.floats(-200, 0)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


@given(LOGP, LOGP, LOGP, LOGP, st.floats(0.01, 2))
def test_one_pair_is_the_papers_equation(chosen, rejected, chosen_reference, rejected_reference, beta):
    """−log σ(β log(π(w)/π_ref(w)) − β log(π(l)/π_ref(l))), in plain Python (paper 3.1)."""
    terms = dpo_terms(tensor(chosen), tensor(rejected), tensor(chosen_reference), tensor(rejected_reference), beta=beta)
    inside = beta * (chosen - chosen_reference) - beta * (rejected - rejected_reference)
    # log(1 + e^−x), written so that e^… cannot overflow.
    expected = math.log1p(math.exp(-inside)) if inside > 0 else -inside + math.log1p(math.exp(inside))
    assert terms.losses.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert terms.preferred_rewards.item() == pytest.approx(beta * (chosen - chosen_reference), abs=1e-12)
    assert terms.dispreferred_rewards.item() == pytest.approx(beta * (rejected - rejected_reference), abs=1e-12)
    assert terms.margins.item() == pytest.approx(inside, abs=1e-11)
    assert terms.accuracy.item() == (terms.preferred_rewards > terms.dispreferred_rewards).item()


def test_a_policy_like_its_reference_gets_no_reward_and_log_two():
    logp = tensor(-3.7, -81.2, -0.1)
    other = tensor(-9.0, -2.5, -44.4)
    terms = dpo_terms(logp, other, logp, other, beta=0.1)
    assert torch.equal(terms.preferred_rewards, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(terms.dispreferred_rewards, torch.zeros(3, dtype=torch.float64))
    assert torch.equal(terms.accuracy, torch.zeros(3, dtype=torch.float64)), "no margin is no success"
    torch.testing.assert_close(terms.losses, torch.full((3,), math.log(2), dtype=torch.float64))


def test_gradients():
    """β σ(−margin) up for the preferred, down for the dispreferred, none for the reference's side of rewards."""
    beta = 0.3
    stream = torch.Generator().manual_seed(0)
    parts = [(-10 * torch.rand(5, generator=stream, dtype=torch.float64)).requires_grad_() for _ in range(4)]
    terms = dpo_terms(*parts, beta=beta)
    assert not terms.preferred_rewards.requires_grad
    assert not terms.dispreferred_rewards.requires_grad
    found = torch.autograd.grad(terms.losses.sum(), parts[:2])
    slope = beta * torch.sigmoid(-terms.margins)
    torch.testing.assert_close(found[0], -slope, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1], slope, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(lambda *given: dpo_terms(*given, beta=beta).losses, parts)


def test_hopeless_and_certain_pairs_stay_finite():
    far = tensor(-5000.0, 0.0).requires_grad_()
    terms = dpo_terms(far, far.detach().flip(0), tensor(0.0, 0.0), tensor(0.0, 0.0), beta=1.0)
    terms.losses.sum().backward()
    assert terms.losses.tolist() == [5000.0, 0.0]
    assert far.grad.tolist() == [-1.0, 0.0]


@pytest.mark.parametrize("unlikelihood", [0.0, 0.5, 2.0])
def test_likelihood_is_a_mean_over_each_completion_in_plain_python(unlikelihood):
    """−mean log π of what is preferred − κ mean log(1 − π) of what is not, pair by pair."""
    preferred, others = [[-0.5, -2.0, -3.0], [-1.0]], [[-0.25], [-4.0, -0.125]]
    tokens = [(number, logp) for number, some in enumerate([*preferred, *others]) for logp in some]
    order = [3, 0, 6, 1, 5, 2, 4]
    sequence = torch.tensor([tokens[place][0] for place in order])
    found = likelihood_losses(tensor(*(tokens[place][1] for place in order)), sequence, 2, unlikelihood=unlikelihood)
    for pair in range(2):
        wanted = -math.fsum(preferred[pair]) / len(preferred[pair])
        against = -math.fsum(math.log(1 - math.exp(logp)) for logp in others[pair]) / len(others[pair])
        assert found[pair].item() == pytest.approx(wanted + unlikelihood * against, rel=1e-12)


def test_a_certain_token_that_is_not_preferred_costs_much_and_not_infinity():
    logp = tensor(-1.0, 0.0).requires_grad_()
    found = likelihood_losses(logp, torch.tensor([0, 1]), 1, unlikelihood=1.0)
    assert found.item() == pytest.approx(1 - math.log(1e-6), rel=1e-6)
    found.sum().backward()
    assert logp.grad.isfinite().all()


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-100, 100)), min_size=1, max_size=30))
def test_sums_and_means_by_group(members):
    group = torch.tensor([number for number, _ in members])
    values = tensor(*(value for _, value in members))
    sums, means = sum_by(values, group, 7), mean_by(values, group, 7)
    assert sums.shape == means.shape == (7,)
    for number in range(7):
        own = [value for index, value in members if index == number]
        assert sums[number].item() == pytest.approx(math.fsum(own), abs=1e-9)
        assert means[number].item() == pytest.approx(math.fsum(own) / len(own) if own else 0.0, abs=1e-9)


def test_gradients_reach_every_member_of_a_group():
    values = tensor(1.0, 2.0, 3.0, 4.0).requires_grad_()
    group = torch.tensor([2, 0, 2, 2])
    sum_by(values, group, 3)[2].backward()
    assert values.grad.tolist() == [1, 0, 1, 1]
    values.grad = None
    mean_by(values, group, 3)[2].backward()
    torch.testing.assert_close(values.grad, tensor(1 / 3, 0, 1 / 3, 1 / 3))
