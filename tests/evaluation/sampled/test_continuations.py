"""Losses of continuations and relevance, against a loop over tokens, on every family."""

import numpy as np
import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.evaluation.sampled.continuations import continuation_losses, relevance
from dposcope.model.generate import Continuation, Sampling, generate
from helpers.families import TEXTS


@torch.inference_mode()
def naive(lm, head: list[int], body: list[int]) -> float:
    """−Σ log p(token | all before it), one forward pass a token."""
    total = 0.0
    for place, token in enumerate(body):
        logits = lm.model(input_ids=torch.tensor([[*head, *body[:place]]])).logits[0, -1].double()
        total -= torch.log_softmax(logits, 0)[token].item()
    return total


@pytest.fixture
def written(lm) -> list[Continuation]:
    return generate(lm, TEXTS[:5], new_tokens=6, sampling=Sampling(seed=3))


def test_losses_are_those_of_a_loop(lm, written):
    losses = continuation_losses(lm, written, batch_size=3, chunk=2)
    assert losses.nll == pytest.approx([naive(lm, one.prompt_ids, one.ids) for one in written], rel=1e-4)
    assert losses.tokens.tolist() == [len(one.ids) for one in written]


def test_relevance_is_the_gain_over_another_prompt(llama):
    texts = generate(llama, TEXTS[:4], new_tokens=6, sampling=Sampling(seed=3))
    found = relevance(llama, texts, batch_size=2)
    others = [texts[2], texts[3], texts[0], texts[1]]
    wanted = [
        naive(llama, other.prompt_ids, one.ids) - naive(llama, one.prompt_ids, one.ids)
        for one, other in zip(texts, others, strict=True)
    ]
    assert found.nats == pytest.approx(wanted, abs=1e-3)
    assert found.estimate.mean == pytest.approx(sum(wanted) / sum(len(one.ids) for one in texts), abs=1e-4)


def test_a_text_without_a_token_counts_nothing(llama):
    texts = [Continuation([2, 5], [], ""), Continuation([2, 6], [7], "a")]
    losses = continuation_losses(llama, texts)
    assert losses.nll[0] == 0
    assert losses.tokens.tolist() == [0, 1]
    assert relevance(llama, texts).estimate.n == 1


def test_progress_counts_every_text_once(llama):
    seen = []
    texts = [Continuation([2, 5], [6], "a")] * 3
    relevance(llama, texts, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 6), (3, 6), (5, 6), (6, 6)]


def test_what_was_read_before_is_not_read_again(llama):
    seen = []
    texts = generate(llama, TEXTS[:5], new_tokens=6, sampling=Sampling(seed=3))
    own = continuation_losses(llama, texts, batch_size=2)
    found = relevance(llama, texts, own=own, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert found.nats.tolist() == relevance(llama, texts, batch_size=2).nats.tolist()
    assert seen == [(2, 5), (4, 5), (5, 5)]


@pytest.mark.parametrize(
    ("texts", "after", "message"),
    [
        ([Continuation([2], [5], "a")], [], "0 prompts for 1 texts"),
        ([Continuation([], [5], "a")], None, "a prompt has no token"),
        ([Continuation([2] * 128, [5], "a")], None, "129 tokens, and the model's context is 128"),
    ],
)
def test_what_cannot_be_read_is_refused(llama, texts, after, message):
    with pytest.raises(DposcopeError, match=message):
        continuation_losses(llama, texts, after=after)


def test_one_text_has_no_other_prompt(llama):
    with pytest.raises(DposcopeError, match="give at least two texts"):
        relevance(llama, [Continuation([2], [5], "a")])


def test_nothing_is_nothing(llama):
    assert np.array_equal(continuation_losses(llama, []).nll, np.zeros(0))


def test_another_prompt_is_another_one_where_prompts_are_repeated(llama):
    """Of a, b, a, b the text half the list away has the same prompt, which explains a text as well as its own."""
    twice = generate(llama, TEXTS[:2] * 2, new_tokens=6, sampling=Sampling(seed=3))
    found = relevance(llama, twice)
    wanted = [
        naive(llama, other.prompt_ids, one.ids) - naive(llama, one.prompt_ids, one.ids)
        for one, other in zip(twice, [twice[1], twice[0]] * 2, strict=True)
    ]
    assert found.nats == pytest.approx(wanted, abs=1e-3)
    assert relevance(llama, twice[::2]).nats == pytest.approx([0, 0], abs=1e-6)  # there is no other prompt
