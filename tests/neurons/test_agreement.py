"""Agreement of labels against loops, scikit-learn's kappa, and what is known beforehand."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from dposcope.neurons.agreement import Among, Labels, agreement, labels_of, weights_of
from helpers.changes import MOVED, family_change, neurons_of, random_change
from helpers.families import FAMILIES
from helpers.repeated import noisy

GROUPS = ["TP", "TN", "AP", "AN"]


def named(found, labels):
    """Each neuron's label in words, None on a border."""
    read = {Labels.MOVED: lambda n: n.moved, Labels.GROUP: lambda n: n.group, Labels.EFFECT: lambda n: n.effect}
    return [read[labels](neuron) for neuron in neurons_of(found)]


@pytest.mark.parametrize("name", [*FAMILIES, "zeros"])
@pytest.mark.parametrize("labels", Labels)
def test_labels_tell_apart_what_the_paper_tells_apart(name, labels):
    found = random_change() if name == "zeros" else family_change(name)
    numbers, words = labels_of(found)[labels].tolist(), named(found, labels)
    assert len(set(zip(numbers, words, strict=True))) == len(set(numbers)) == len(set(words))
    assert set(numbers) <= set(range({Labels.MOVED: 9, Labels.GROUP: 5, Labels.EFFECT: 3}[labels]))
    if name == "zeros":
        assert None in words
        assert len(set(words)) == {Labels.MOVED: len(MOVED), Labels.GROUP: len(GROUPS), Labels.EFFECT: 2}[labels] + 1


def naive(first, second, weights):
    """(kept, chance) by loops."""
    whole = sum(weights)
    kept = sum(w for a, b, w in zip(first, second, weights, strict=True) if a == b) / whole
    chance = 0.0
    for label in set(first) | set(second):
        here = sum(w for a, w in zip(first, weights, strict=True) if a == label) / whole
        there = sum(w for b, w in zip(second, weights, strict=True) if b == label) / whole
        chance += here * there
    return kept, chance


@given(st.integers(0, 2**20), st.integers(2, 9), st.integers(2, 200), st.booleans())
def test_agreement_is_that_of_a_loop_and_kappa_scikit_learns(seed, kinds, n, weighted):
    draw = np.random.default_rng(seed)
    first, second = draw.integers(0, kinds, (2, n))
    weights = draw.random(n) if weighted else np.ones(n)
    found = agreement(Labels.MOVED, Among.ALL, *map(torch.from_numpy, (first, second, weights)))
    kept, chance = naive(first.tolist(), second.tolist(), weights.tolist())
    assert found.neurons == n
    assert found.kept == pytest.approx(kept)
    assert found.chance == pytest.approx(chance)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one label alone is 0 / 0 there
        expected = cohen_kappa_score(first, second, sample_weight=weights)
    assert found.kappa is None if np.isnan(expected) else found.kappa == pytest.approx(expected, abs=1e-9)


def test_the_same_labels_agree_and_turned_ones_do_not():
    first = torch.tensor([0, 0, 1, 1])
    ones = torch.ones(4)
    same, turned = (agreement(Labels.EFFECT, Among.ALL, first, other, ones) for other in (first, 1 - first))
    assert (same.kept, same.chance, same.kappa) == (1, 0.5, 1)
    assert (turned.kept, turned.chance, turned.kappa) == (0, 0.5, -1)


def test_random_labels_agree_as_by_chance():
    draw = torch.Generator().manual_seed(3)
    first, second = torch.randint(0, 8, (2, 100_000), generator=draw)
    found = agreement(Labels.MOVED, Among.ALL, first, second, torch.ones(100_000))
    assert found.chance == pytest.approx(1 / 8, abs=1e-3)
    assert found.kept == pytest.approx(1 / 8, abs=4e-3)
    assert found.kappa == pytest.approx(0, abs=5e-3)


def test_neurons_without_weight_do_not_count():
    first, second = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 0])
    found = agreement(Labels.EFFECT, Among.HALF, first, second, torch.tensor([1.0, 1, 0, 0]))
    assert (found.neurons, found.kept, found.chance) == (2, 1, 0.5)
    nothing = agreement(Labels.EFFECT, Among.HALF, first, second, torch.zeros(4))
    assert (nothing.neurons, nothing.kept, nothing.chance, nothing.kappa) == (0, None, None, None)


def test_one_label_alone_says_nothing():
    ones = torch.ones(3, dtype=torch.int64)
    found = agreement(Labels.GROUP, Among.ALL, ones, ones, torch.tensor([0.1, 0.2, 0.7]))
    assert (found.chance, found.kappa) == (1, None)
    first, second = torch.tensor([2, 1, 1]), torch.tensor([0, 1, 1])
    apart = agreement(Labels.GROUP, Among.ALL, first, second, torch.tensor([0, 0.2, 0.7]))
    assert (apart.chance, apart.kappa) == (1, None)  # a neuron without weight has no label


@pytest.mark.parametrize("name", [*FAMILIES, "zeros"])
def test_weights_are_those_of_a_loop(name):
    one = random_change() if name == "zeros" else family_change(name)
    other = noisy(one, 7, 0.2)
    pairs = list(zip(neurons_of(one), neurons_of(other), strict=True))
    size = [(abs(a.delta) + abs(b.delta)) / 2 for a, b in pairs]
    weights = weights_of(one, other)
    assert list(weights) == list(Among)
    assert weights[Among.ALL].tolist() == [1] * len(pairs)
    assert weights[Among.WEIGHTED].tolist() == pytest.approx(size, rel=1e-9)
    assert weights[Among.CERTAIN].tolist() == [(a.certain + b.certain) / 2 for a, b in pairs]
    for among, share in ((Among.MOST, 0.9), (Among.HALF, 0.5)):
        carried, chosen = 0.0, set()
        for place in sorted(range(len(size)), key=lambda place: -size[place]):
            if carried >= share * sum(size):
                break
            carried += size[place]
            chosen.add(place)
        assert weights[among].nonzero().squeeze(1).tolist() == sorted(chosen)
    assert 0 < weights[Among.HALF].sum() < weights[Among.MOST].sum() < len(size)
