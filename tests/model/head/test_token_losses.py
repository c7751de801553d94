"""Nats of tokens by blocks of the vocabulary, against the model's own logits in float64."""

import math

import pytest
import torch
from torch import nn

from dposcope.model.head import token_losses as losses_module
from dposcope.model.head.token_losses import token_losses
from dposcope.model.head.unembedding import Unembedding
from helpers.families import copied


def states(lm, count=11, seed=0):
    """Random final states, and the tokens that should follow: the first and the last of the vocabulary among them."""
    drawn = torch.Generator().manual_seed(seed)
    vocabulary = len(lm.model.get_output_embeddings().weight)
    targets = torch.randint(vocabulary, (count,), generator=drawn)
    targets[0], targets[-1] = 0, vocabulary - 1
    hidden = torch.randn(count, lm.model.config.get_text_config().hidden_size, generator=drawn)
    return hidden.to(lm.dtype), targets


def naive(lm, hidden, targets):
    """−log softmax, one position at a time."""
    total = []
    for state, target in zip(hidden, targets.tolist(), strict=True):
        row = lm.unembed(state.reshape(1, 1, -1))[0, 0].double().tolist()
        highest = max(row)
        total.append(math.log(sum(math.exp(one - highest) for one in row)) + highest - row[target])
    return total


@pytest.fixture(params=[(1, 1, 1), (40, 20, 4), (150, 40, 11), (1 << 23, 1 << 19, 1 << 12)], ids=str)
def sizes(request, monkeypatch):
    """Of a block of the vocabulary, of what is exponentiated at once, and of positions."""
    for name, size in zip(("_BLOCK", "_IN_CACHE", "_POSITIONS"), request.param, strict=True):
        monkeypatch.setattr(losses_module, name, size)


@torch.no_grad()
def test_it_is_the_models_own_distribution(lm, sizes):
    hidden, targets = states(lm)
    found = token_losses(lm, hidden, targets, 3)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx(naive(lm, hidden, targets), rel=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_bias_factor_and_cap_act_as_in_the_model(gemma2, bias, sizes):
    lm = copied(gemma2)
    lm.model.config.logit_scale = 0.7
    lm.model.config.final_logit_softcapping = 2.5
    if bias:
        lm.model.lm_head.bias = nn.Parameter(torch.randn(len(lm.model.lm_head.weight)))
    hidden, targets = states(lm)
    assert token_losses(lm, hidden, targets, 3).tolist() == pytest.approx(naive(lm, hidden, targets), rel=1e-5)


@torch.no_grad()
def test_in_half_precision_the_logits_are_rounded_as_the_model_rounds_them(gemma2, sizes):
    lm = copied(gemma2)
    lm.model.to(torch.bfloat16)
    hidden, targets = states(lm, count=40)
    found, wanted = token_losses(lm, hidden, targets, 3), torch.tensor(naive(lm, hidden, targets)).double()
    # A sum in another order may round a logit to the next number, 2⁻⁸ of it away; almost none is.
    assert (found - wanted).abs().median() < 1e-5
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=2e-2)


@torch.no_grad()
def test_a_token_that_never_comes_counts_nothing_and_costs_without_end(llama, sizes):
    lm = copied(llama)
    bias = torch.zeros(len(lm.model.lm_head.weight))
    bias[:30] = -torch.inf
    lm.model.lm_head.bias = nn.Parameter(bias)
    hidden, targets = states(lm)
    found = token_losses(lm, hidden, targets, 3)
    possible = targets >= 30
    assert found[~possible].tolist() == [math.inf] * int((~possible).sum())
    wanted = naive(lm, hidden[possible], targets[possible])
    assert found[possible].tolist() == pytest.approx(wanted, rel=1e-5)


@torch.no_grad()
def test_a_state_that_is_no_number_gives_none(llama, sizes):
    hidden, targets = states(llama)
    hidden[2, 0] = torch.nan
    found = token_losses(llama, hidden, targets, 3)
    assert found.isnan().tolist() == [place == 2 for place in range(len(targets))]


@torch.no_grad()
def test_a_head_that_is_more_than_a_linear_map_is_called(llama):
    """One that somebody listens to, and one of another class: with what they add."""
    lm = copied(llama)
    hidden, targets = states(lm)
    listening = lm.model.lm_head.register_forward_hook(lambda _module, _args, logits: 2 * logits)
    wanted = naive(lm, hidden, targets)
    assert token_losses(lm, hidden, targets, 3).tolist() == pytest.approx(wanted, rel=1e-5)
    listening.remove()

    class Doubling(nn.Linear):
        def forward(self, states):
            return 2 * super().forward(states)

    lm.model.lm_head.__class__ = Doubling
    assert token_losses(lm, hidden, targets, 3).tolist() == pytest.approx(wanted, rel=1e-5)


@torch.no_grad()
def test_no_more_logits_than_a_block_are_made(llama, monkeypatch):
    made = []
    logits = Unembedding.logits
    monkeypatch.setattr(Unembedding, "logits", lambda *given: made.append(logits(*given).shape) or logits(*given))
    monkeypatch.setattr(losses_module, "_BLOCK", 70)
    hidden, targets = states(llama)
    token_losses(llama, hidden, targets, 3)
    assert {positions for positions, _ in made} == {11}
    assert max(tokens for _, tokens in made) == 70 // 11
    assert sum(tokens for _, tokens in made) == len(llama.model.lm_head.weight)


@torch.no_grad()
def test_nothing_to_predict_costs_nothing(llama):
    hidden, targets = states(llama)
    assert token_losses(llama, hidden[:0], targets[:0], 3).tolist() == []


@torch.no_grad()
def test_a_model_of_doubles_loses_nothing(gemma2, sizes):
    lm = copied(gemma2)
    lm.model.double()
    hidden, targets = states(lm)
    assert token_losses(lm, hidden, targets, 3).tolist() == pytest.approx(naive(lm, hidden, targets), rel=1e-12)
