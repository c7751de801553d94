"""What is added up in parts is the whole, however it is divided: other batches, another order, other chunks."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dposcope.directions.features import residual_features
from dposcope.evaluation.perplexity import window_losses
from dposcope.evaluation.sampled.continuations import continuation_losses
from dposcope.evaluation.scorer import Scorer
from dposcope.interventions.paired.attribution import attribution
from dposcope.interventions.paired.mediation import mediation
from dposcope.model.generate import Continuation, generate
from dposcope.model.head.unembedding import Unembedding
from dposcope.neurons.activations import ActivationAccumulator, collect_means
from dposcope.neurons.folds import collect_by_fold, joined, pooled
from dposcope.training.token_statistics import Reference, token_statistics
from helpers.changes import tuned_copy
from helpers.families import TEXTS, assert_close, tiny

PROMPTS = TEXTS[:6]
LONG = " ".join(TEXTS * 4)
sizes = st.integers(1, 8)
orders = st.permutations(range(len(PROMPTS)))
FEW = settings(max_examples=12)
"""For what runs a model."""


@pytest.fixture(scope="module")
def lm():
    return tiny("llama")


@pytest.fixture(scope="module")
def tuned(lm):
    return tuned_copy(lm)


@pytest.fixture(scope="module")
def written(lm):
    return generate(lm, PROMPTS, new_tokens=6)


def parts_of(whole, cuts):
    """A list divided at places, some parts empty."""
    edges = [0, *sorted(cuts), len(whole)]
    return [whole[start:stop] for start, stop in pairwise(edges)]


# Sums over tokens


@given(st.lists(st.integers(0, 12), max_size=4), st.permutations(range(12)), st.integers(0, 2**20))
def test_activations_in_any_parts_and_order(cuts, order, seed):
    rows = 10 * torch.randn(12, 3, generator=torch.Generator().manual_seed(seed))
    whole, divided = ActivationAccumulator(1, 3, folds=3), ActivationAccumulator(1, 3, folds=3)
    fold_of = torch.arange(12) % 3
    whole.update(0, rows, fold_of)
    for part in parts_of(order, cuts):
        chosen = torch.tensor(part, dtype=torch.long)
        divided.update(0, rows[chosen], fold_of[chosen])
    for fold in (None, 0, 1, 2):
        one, other = whole.value(fold=fold), divided.value(fold=fold)
        assert other.count == one.count
        torch.testing.assert_close(other.mean, one.mean, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(other.second_moment, one.second_moment, rtol=1e-13, atol=1e-13)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=6), st.integers(0, 2**20))
def test_joined_means_are_those_over_all_tokens(lengths, seed):
    """Parts of different sizes count by their tokens."""
    stream = torch.Generator().manual_seed(seed)
    parts = [torch.randn(n, 2, generator=stream) for n in lengths]

    def mean_of(rows):
        accumulator = ActivationAccumulator(1, 2)
        accumulator.update(0, rows)
        return accumulator.value({"prompts": 1})

    whole, sum_of_parts = mean_of(torch.cat(parts)), joined([mean_of(part) for part in parts], {})
    assert sum_of_parts.count == whole.count == sum(lengths)
    assert sum_of_parts.about["prompts"] == len(lengths)
    torch.testing.assert_close(sum_of_parts.mean, whole.mean, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(sum_of_parts.second_moment, whole.second_moment, rtol=1e-13, atol=1e-14)


@FEW
@given(size=sizes, order=orders, folds=st.sampled_from([2, 3, 6]))
def test_means_of_a_model_in_any_batches_and_order(lm, size, order, folds):
    whole = collect_means(lm, PROMPTS, new_tokens=4)
    other = collect_means(lm, [PROMPTS[row] for row in order], new_tokens=4, batch_size=size)
    assert other.count == whole.count
    assert_close(other.mean, whole.mean)
    assert_close(other.second_moment, whole.second_moment)
    by_fold = collect_by_fold(lm, PROMPTS, 6, new_tokens=4, batch_size=size)
    again = joined(pooled(by_fold.folds, folds), {})
    assert again.count == whole.count
    assert_close(again.mean, whole.mean)


@FEW
@given(size=sizes, order=orders)
def test_features_in_any_batches_and_order(lm, size, order):
    whole = residual_features(lm, PROMPTS)
    other = residual_features(lm, [PROMPTS[row] for row in order], batch_size=size)
    assert_close(other.vectors, whole.vectors[list(order)])
    assert other.residual_norm == pytest.approx(whole.residual_norm, rel=1e-5)


@FEW
@given(size=sizes, order=st.permutations(range(4)), side=st.integers(1, 3))
def test_effects_of_neurons_in_any_batches_and_order(lm, tuned, written, size, order, side):
    texts = [one for one in written if one.ids][:4]
    assert len(texts) == 4
    toxic, harmless = texts[:side], texts[side:]
    whole = attribution(lm, tuned, toxic, harmless)
    other = attribution(lm, tuned, toxic[::-1], harmless[::-1], batch_size=size)
    assert_close(other.effect, whole.effect, 1e-5 * float(whole.effect.abs().max()))
    assert other.log_odds == pytest.approx(whole.log_odds, rel=1e-5, abs=1e-5)
    one, two = mediation(lm, tuned, texts), mediation(lm, tuned, [texts[row] for row in order], batch_size=size)
    for name in ("own", "before", "change"):
        assert_close(getattr(two, name), getattr(one, name))


# Nats


@FEW
@given(
    window=st.integers(3, 40),
    chunk=st.integers(1, 50),
    cut=st.integers(1, 3),
    protocol=st.sampled_from(["strict", "reference"]),
)
def test_nats_of_windows_in_any_chunks_and_parts(lm, window, chunk, cut, protocol):
    whole = window_losses(lm, LONG, window=window, protocol=protocol)
    first = window_losses(lm, LONG, window=window, chunk=chunk, max_windows=cut, protocol=protocol)
    rest = window_losses(lm, LONG, window=window, chunk=chunk, skip_windows=cut, protocol=protocol)
    np.testing.assert_array_equal(np.concatenate([first.tokens, rest.tokens]), whole.tokens)
    np.testing.assert_allclose(np.concatenate([first.nll, rest.nll]), whole.nll, rtol=1e-5)


@FEW
@given(size=sizes, chunk=st.integers(1, 20), order=orders, cut=st.integers(0, 6))
def test_nats_of_texts_in_any_batches_order_and_parts(lm, written, size, chunk, order, cut):
    whole = continuation_losses(lm, written)
    some = [written[row] for row in order]
    parts = [continuation_losses(lm, part, batch_size=size, chunk=chunk) for part in (some[:cut], some[cut:]) if part]
    np.testing.assert_array_equal(np.concatenate([part.tokens for part in parts]), whole.tokens[list(order)])
    np.testing.assert_allclose(np.concatenate([part.nll for part in parts]), whole.nll[list(order)], rtol=1e-5)


@given(st.lists(st.sampled_from(["a", "b c", "", " ", "dd", "e"]), max_size=9), st.lists(st.integers(0, 9), max_size=3))
def test_scores_of_texts_in_any_parts(texts, cuts):
    """A scorer sees only the texts that it has not seen, so parts meet a cache where the whole does not."""

    def score(texts):
        return [len(text) / 10 for text in texts]

    whole = Scorer("length", "0", score)(texts)
    divided = Scorer("length", "0", score)
    parts = [divided(part) for part in parts_of(texts, [min(cut, len(texts)) for cut in cuts])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


# Statistics of tokens, with gradients


@settings(max_examples=40)
@given(
    cuts=st.lists(st.integers(0, 9), max_size=3),
    logits_at_once=st.integers(1, 300),
    softcap=st.sampled_from([None, 1.5]),
    trained=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_token_statistics_in_any_chunks_and_parts(cuts, logits_at_once, softcap, trained, seed):
    """Values are those of all tokens at once, and gradients add up to theirs."""
    stream = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(*shape, generator=stream, dtype=torch.float64)

    tokens, width, vocabulary = 9, 4, 17
    hidden, weight = drawn(tokens, width), drawn(vocabulary, width)
    reference, teacher = ((drawn(tokens, width), Unembedding(drawn(vocabulary, width))) for _ in range(2))
    targets = torch.randint(vocabulary, (tokens,), generator=stream)

    def values(rows, hidden, weight, **more):
        found = token_statistics(
            hidden[rows],
            Unembedding(weight, softcap=softcap),
            targets=targets[rows],
            reference=Reference(reference[0][rows], reference[1]),
            teacher=Reference(teacher[0][rows], teacher[1]),
            kl=True,
            **more,
        )
        return torch.stack([found.logp, found.reference_logp, found.kl, found.distillation])

    def gradients(parts, **more):
        own, head = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trained)
        whole = torch.cat([values(part, own, head, **more) for part in parts], 1)
        (whole * torch.tensor([[1.0], [0.0], [2.0], [3.0]])).sum().backward()
        return whole.detach(), own.grad, head.grad

    every = torch.arange(tokens)
    expected = gradients([every])
    found = gradients([part for part in parts_of(every, cuts) if len(part)], logits_at_once=logits_at_once)
    for one, other in zip(found, expected, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    assert (found[2] is not None) == trained


def test_a_text_of_its_own_is_a_part(lm):
    """The tests above would not see texts that read each other."""
    one = Continuation([2, 40], [41, 55], "")
    alone = continuation_losses(lm, [one])
    beside = continuation_losses(lm, [replace(one, prompt_ids=[2, 9, 9, 9, 9]), one])
    np.testing.assert_allclose(beside.nll[1:], alone.nll, rtol=1e-5)
    assert beside.nll[0] != pytest.approx(alone.nll[0], rel=1e-3)
