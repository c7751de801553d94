"""Stability of groups against loops over pairs of repetitions."""

from dataclasses import replace
from itertools import combinations

import polars as pl
import pytest
import torch
from scipy.stats import spearmanr

from dposcope.errors import DposcopeError
from dposcope.neurons.agreement import Among, Labels
from dposcope.neurons.stability import Repetitions, Spread, stability
from helpers.changes import neurons_of, random_change
from helpers.repeated import noisy, repeated, stable

TOXIC = 20


def test_every_pair_is_that_of_a_loop():
    source = repeated("comments", 4, 0.3)
    found = stability([source], toxic=TOXIC).sources[0]
    assert (found.source, found.repetitions, found.neurons) == ("comments", 4, 360)
    pairs = list(combinations(range(4), 2))
    assert [(pair.first, pair.second) for pair in found.pairs] == [
        (source.names[one], source.names[other]) for one, other in pairs
    ]
    neurons = [neurons_of(change) for change in source.changes]
    for pair, (one, other) in zip(found.pairs, pairs, strict=True):
        first, second = neurons[one], neurons[other]
        kept = [a.moved == b.moved for a, b in zip(first, second, strict=True)]
        assert pair.of(Labels.MOVED, Among.ALL).kept == pytest.approx(sum(kept) / 360)
        size = [(abs(a.delta) + abs(b.delta)) / 2 for a, b in zip(first, second, strict=True)]
        same = [a.effect == b.effect for a, b in zip(first, second, strict=True)]
        weighted = sum(w for w, alike in zip(size, same, strict=True) if alike) / sum(size)
        assert pair.of(Labels.EFFECT, Among.WEIGHTED).kept == pytest.approx(weighted)
        deltas = [[neuron.delta for neuron in some] for some in (first, second)]
        assert pair.rank_correlation == pytest.approx(spearmanr(*deltas).statistic)
        assert (pair.toxic.size, pair.top.size) == (TOXIC, 4)
        assert pair.toxic.jaccard == jaccard([best(some, lambda n: n.cosine, TOXIC) for some in (first, second)])
        assert pair.top.jaccard == jaccard([best(some, lambda n: abs(n.delta), 4) for some in (first, second)])
        assert len(pair.agreements) == len(Labels) * len(Among)


def best(neurons, score, n):
    return {(one.block, one.index) for one in sorted(neurons, key=lambda neuron: -score(neuron))[:n]}


def jaccard(sets):
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_a_repetition_of_the_same_keeps_everything():
    change = random_change(2, (4, 90))
    found = stability([Repetitions("prompts", ("a", "b"), (change, replace(change)))]).sources[0]
    (pair,) = found.pairs
    for one in pair.agreements:
        assert one.kept == pytest.approx(1)
        assert one.kappa == pytest.approx(1)
    assert pair.rank_correlation == pytest.approx(1)
    assert (pair.toxic.jaccard, pair.top.jaccard) == (1, 1)


def test_what_has_nothing_in_common_keeps_what_chance_keeps():
    changes = tuple(random_change(seed, (5, 8000), zeros=False) for seed in (1, 2))
    found = stability([Repetitions("prompts", ("a", "b"), changes)]).sources[0]
    (pair,) = found.pairs
    for one in pair.agreements:
        assert one.kept == pytest.approx(one.chance, abs=0.02)
        assert one.kappa == pytest.approx(0, abs=0.04)
    assert pair.rank_correlation == pytest.approx(0, abs=0.02)
    for overlap in (pair.toxic, pair.top):
        assert overlap.jaccard == pytest.approx(overlap.chance, abs=0.01)


def test_the_chance_of_an_overlap_is_that_of_random_sets():
    stream = torch.Generator().manual_seed(1)
    sets = [set(torch.randperm(360, generator=stream)[:TOXIC].tolist()) for _ in range(4000)]
    drawn = [len(a & b) for a, b in zip(sets[::2], sets[1::2], strict=True)]
    shared = sum(drawn) / len(drawn)
    chance = stable().sources[0].pairs[0].toxic.chance
    assert chance == pytest.approx(shared / (2 * TOXIC - shared), rel=0.1)


def test_a_spread_is_mean_and_range_over_pairs():
    found = stable().sources[1]
    kept = [pair.of(Labels.MOVED, Among.HALF).kept for pair in found.pairs]
    assert found.kept(Labels.MOVED, Among.HALF) == Spread(pytest.approx(sum(kept) / 6), min(kept), max(kept), 6)
    assert found.kappa(Labels.MOVED, Among.HALF).low == min(
        pair.of(Labels.MOVED, Among.HALF).kappa for pair in found.pairs
    )
    assert found.counted(Among.ALL) == Spread(360, 360, 360, 6)


def test_what_did_not_change_has_no_rank_correlation_and_no_certain_neuron():
    change = random_change(zeros=False)
    still = replace(change, projection_after=change.projection_before, after=change.before)
    found = stability([Repetitions("prompts", ("a", "b"), (still, replace(still)))]).sources[0]
    assert found.pairs[0].rank_correlation is None
    assert found.kept(Labels.MOVED, Among.CERTAIN) is None
    assert found.kappa(Labels.EFFECT, Among.ALL) is None


def test_tables_have_a_row_per_pair():
    found = stable()
    table, ranks = found.to_polars(), found.ranks()
    pairs = 1 + 6 + 3 + 3
    assert (table.height, ranks.height) == (pairs * len(Labels) * len(Among), pairs)
    assert table.columns == [
        *("source", "first", "second", "labels", "among", "neurons", "kept", "chance", "kappa"),
    ]
    row = table.row(0, named=True)
    one = found.sources[0].pairs[0].agreements[0]
    assert (row["labels"], row["among"]) == (str(one.labels), str(one.among))
    assert (row["kept"], row["chance"], row["kappa"]) == (one.kept, one.chance, one.kappa)
    last = ranks.row(-1, named=True)
    pair = found.sources[-1].pairs[-1]
    assert (last["rank_correlation"], last["toxic_overlap"], last["top_chance"]) == (
        pair.rank_correlation,
        pair.toxic.jaccard,
        pair.top.chance,
    )
    empty = stability([])
    assert empty.to_polars().schema == table.schema
    assert empty.ranks().schema == ranks.schema
    assert pl.Null not in table.dtypes


def test_what_cannot_be_compared_is_refused():
    change = random_change()
    with pytest.raises(DposcopeError, match="1 repetitions of prompts under 1 names; give at least two"):
        Repetitions("prompts", ("a",), (change,))
    with pytest.raises(DposcopeError, match="a name for each"):
        Repetitions("prompts", ("a",), (change, noisy(change, 1, 0.1)))
    with pytest.raises(DposcopeError, match="models of different sizes"):
        Repetitions("prompts", ("a", "b"), (change, random_change(1, (2, 5))))
    with pytest.raises(DposcopeError, match="ask for at least one"):
        stability([], toxic=0)
    assert stability([], toxic=1).sources == ()
