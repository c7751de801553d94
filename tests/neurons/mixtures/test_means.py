"""Means of a mixture against loops over texts, tokens and experts."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from dposcope.interventions.gains import Gains
from dposcope.interventions.least_squares import LeastSquares
from dposcope.model.batches import encode
from dposcope.neurons.activations import NeuronMeans, collect_means, recording
from dposcope.neurons.contributions import Contributions, contributions
from dposcope.neurons.folds import FoldedMeans, collect_by_fold, joined
from helpers import families
from helpers.families import MIXTURES, assert_close, copied, random_direction, random_gains
from helpers.mixtures import greedy, run, shared_mixture, vectors_of

TEXTS = families.TEXTS[2:7]
NEW = 4
CLOSE = 2e-5


@pytest.fixture(params=MIXTURES)
def mixture(request):
    return shared_mixture(request.param)


class Naive:
    """Sums over the positions that predict, each text alone, every step a whole naive run."""

    def __init__(self, lm, texts, rule=None):
        shape = (lm.n_blocks, lm.experts.count, lm.experts.width)
        self.tokens, self.counts = 0, torch.zeros(shape[:2], dtype=torch.int64)
        total, squares, written, written_squares = (torch.zeros(shape, dtype=torch.float64) for _ in range(4))
        self.output = torch.zeros(lm.n_blocks, lm.d_model, dtype=torch.float64)
        for text in texts:
            prompt = lm.tokenizer(text)["input_ids"]
            ids = prompt + greedy(lm, prompt, NEW, rule)
            seen = run(lm, ids, rule)
            places = range(len(prompt) - 1, len(ids) - 1)
            self.tokens += len(places)
            for (block, token, expert), m in seen.activations.items():
                if token in places:
                    row, weight = m.double(), seen.weights[block, token, expert]
                    self.counts[block, expert] += 1
                    total[block, expert] += row
                    squares[block, expert] += row**2
                    written[block, expert] += weight * row
                    written_squares[block, expert] += (weight * row) ** 2
            for (block, token), out in seen.written.items():
                if token in places:
                    self.output[block] += out.double()
        each = self.counts.clamp(min=1).unsqueeze(-1)
        self.mean, self.second = (total / each).flatten(1), (squares / each).flatten(1)
        self.written, self.written_second = (one.flatten(1) / self.tokens for one in (written, written_squares))
        self.output /= self.tokens

    def same_as(self, means, width):
        assert means.count == self.tokens
        assert torch.equal(means.routed.counts, self.counts.repeat_interleave(width, 1))
        assert_close(means.mean, self.mean, CLOSE)
        assert_close(means.second_moment, self.second, 10 * CLOSE)
        assert_close(means.routed.written, self.written, CLOSE)
        assert_close(means.routed.written_second_moment, self.written_second, 10 * CLOSE)


@cache
def naive_of(family):
    return Naive(shared_mixture(family), TEXTS)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_means_are_over_the_tokens_that_were_sent_to_the_expert(mixture, batch_size):
    means = collect_means(mixture, TEXTS, new_tokens=NEW, batch_size=batch_size)
    naive = naive_of(mixture.model.config.model_type)
    naive.same_as(means, mixture.experts.width)
    assert len(set(naive.counts.flatten().tolist())) > 3, "experts see equally many tokens: this tests too little"
    assert torch.equal(means.written, means.routed.written)
    assert not torch.allclose(means.written, means.mean)


def test_gains_act_on_the_means(mixture):
    values, width = 1 + 0.3 * (random_gains(mixture) - 1), mixture.experts.width

    def rule(block, token, expert, m):
        return m * values[block, expert * width : (expert + 1) * width]

    with Gains(values).on(mixture):
        means = collect_means(mixture, TEXTS[:3], new_tokens=NEW)
    Naive(mixture, TEXTS[:3], rule).same_as(means, width)


def test_the_reference_protocol_reads_the_same_positions_of_the_written_text():
    lm = shared_mixture("mixtral")
    one = collect_means(lm, TEXTS, new_tokens=NEW, protocol="reference", batch_size=3)
    other = collect_means(lm, TEXTS, new_tokens=NEW, protocol="reference", batch_size=1)
    assert torch.equal(one.routed.counts, other.routed.counts)
    assert one.count == NEW * len(TEXTS)
    assert int(one.routed.counts[0, :: lm.experts.width].sum()) == 2 * one.count, "two experts a token"
    assert_close(one.mean, other.mean, CLOSE)


def test_recording_a_plain_pass_counts_every_real_token():
    lm = shared_mixture("gpt_oss")
    ids = encode(lm, TEXTS)[3]
    with recording(lm) as accumulator:
        lm.model(input_ids=torch.tensor([ids]), use_cache=False)
    assert accumulator.value().count == len(ids)
    assert int(accumulator.value().routed.counts[0, :: lm.experts.width].sum()) == 2 * len(ids)


def test_folds_join_to_the_whole(mixture):
    found = collect_by_fold(mixture, TEXTS, 4, new_tokens=NEW)
    again = joined(found.folds, {})
    assert torch.equal(again.routed.counts, found.whole.routed.counts)
    for name in ("mean", "second_moment", "written", "written_second_moment"):
        torch.testing.assert_close(getattr(again, name), getattr(found.whole, name), rtol=1e-12, atol=1e-12)
    assert any(int(fold.routed.counts.min()) == 0 for fold in found.folds), "no expert without a token in a fold"
    Naive(mixture, TEXTS[::4]).same_as(found.folds[0], mixture.experts.width)


def test_a_neuron_without_a_token_has_mean_0_and_writes_nothing():
    lm = shared_mixture("olmoe")
    means = collect_means(lm, TEXTS[:1], new_tokens=1)
    unseen = means.routed.counts == 0
    assert unseen.any()
    for table in (means.mean, means.second_moment, means.written, means.standard_error):
        assert (table[unseen] == 0).all()


def test_standard_errors_count_the_tokens_of_each_neuron(mixture):
    means = collect_means(mixture, TEXTS, new_tokens=NEW)
    expected = ((means.second_moment - means.mean**2) / (means.routed.counts - 1).clamp(min=1)).clamp(min=0).sqrt()
    torch.testing.assert_close(means.standard_error, expected)
    of_written = (means.written_second_moment - means.written**2) / (means.count - 1)
    torch.testing.assert_close(means.written_standard_error, of_written.clamp(min=0).sqrt())


def test_saved_and_loaded(mixture, tmp_path):
    found = collect_by_fold(mixture, TEXTS, 2, new_tokens=NEW)
    found.save(tmp_path / "means")
    for one, other in zip(
        (found.whole, *found.folds),
        (lambda again: (again.whole, *again.folds))(FoldedMeans.load(tmp_path / "means", 2)),
        strict=True,
    ):
        assert one.routed.experts == other.routed.experts == mixture.experts.count
        assert other.routed.counts.dtype == torch.int64
        for name, table in one.tensors().items():
            assert torch.equal(table, other.tensors()[name])
    rows = NeuronMeans.load(tmp_path / "means").to_polars()
    row = rows.filter((rows["block"] == 1) & (rows["neuron"] == mixture.experts.width + 3)).row(0, named=True)
    assert row["expert"] == 1
    assert row["count"] == int(found.whole.routed.counts[1, mixture.experts.width])
    assert row["written"] == float(found.whole.written[1, mixture.experts.width + 3])


# Contributions


def tuned_of(lm):
    """Weights moved a little, those of routers too."""
    tuned, stream = copied(lm), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            parameter.add_(0.05 * parameter.std() * torch.randn(parameter.shape, generator=stream))
    return replace(tuned, name="tuned")


def test_contributions_add_up_to_how_much_less_the_experts_write_along_the_direction(mixture, tmp_path):
    tuned, W = tuned_of(mixture), random_direction(mixture)
    w = W / W.norm()
    found = contributions(
        mixture,
        tuned,
        collect_means(mixture, TEXTS, new_tokens=NEW),
        collect_means(tuned, TEXTS, new_tokens=NEW),
        W,
    )
    sides = [(mixture, naive_of(mixture.model.config.model_type)), (tuned, Naive(tuned, TEXTS))]
    vectors = [
        torch.stack([torch.cat([vectors_of(lm, b, e) for e in range(lm.experts.count)]) for b in range(lm.n_blocks)])
        for lm, _ in sides
    ]
    before, after = ((naive.written * (v @ w)) for (_, naive), v in zip(sides, vectors, strict=True))
    assert_close(found.total, before - after, CLOSE)
    assert torch.equal(found.from_activations + found.from_vectors, found.total)
    if mixture.model.config.model_type != "gpt_oss":  # its biases belong to no neuron
        less = (sides[0][1].output - sides[1][1].output) @ w
        assert less.abs().min() > 1e-3, "nothing to see"
        assert_close(found.total.sum(1), less, CLOSE)
    found.save(tmp_path / "change")
    again = Contributions.load(tmp_path / "change")
    assert torch.equal(again.total, found.total)
    assert torch.equal(again.standard_error, found.standard_error)
    table = again.to_polars()
    assert table["expert"].to_list() == [
        place // mixture.experts.width for _ in range(mixture.n_blocks) for place in range(mixture.d_mlp)
    ]
    assert table["count_after"].to_list() == found.after.routed.counts.flatten().tolist()
    signs = {"P": 1, "N": -1}
    for row in table.filter(table["group"].is_not_null()).iter_rows(named=True):
        mean = float(sides[0][1].mean[row["block"], row["index"]])
        assert signs[row["group"][1]] * mean > 0, "groups go by the mean over routed tokens"


def test_least_squares_weighs_what_neurons_write(mixture):
    means, W = collect_means(mixture, TEXTS, new_tokens=NEW), random_direction(mixture)
    problem, naive = LeastSquares.of(mixture, means, W), naive_of(mixture.model.config.model_type)
    for block in range(mixture.n_blocks):
        vectors = torch.cat([vectors_of(mixture, block, expert) for expert in range(mixture.experts.count)])
        assert_close(problem.pull[block], naive.written[block] * (vectors @ (W / W.norm())), CLOSE)
        assert_close(problem.cost[block], naive.written_second[block] * vectors.square().sum(1), 10 * CLOSE)
