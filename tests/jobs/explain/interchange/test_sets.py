"""The sets of an interchange: what is in them, and what they are called."""

import pytest
import torch

from dposcope.interventions.paired.interchange import InterchangeWith
from dposcope.interventions.weights import OtherWeights
from dposcope.jobs.explain.interchange.carriers import RANKINGS, Rankings
from dposcope.jobs.explain.interchange.sets import MEASURED, interchange_conditions, interchange_sets
from dposcope.jobs.explain.patches import patches
from dposcope.neurons.sets import NeuronSet
from helpers.changes import family_change
from helpers.families import tiny


@pytest.fixture(scope="module")
def made():
    base, change = tiny("llama"), family_change("llama")
    toxic = {"top 4": NeuronSet.all(base.n_blocks, base.d_mlp).top(4, by=change.cosine)}
    effect = torch.randn(base.n_blocks, base.d_mlp, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return base, patches(change, toxic=toxic), Rankings(effect, change.total, 0, change.everything)


def test_the_same_neurons_as_each_patch(made):
    base, frozen, rankings = made
    by_patch = {one.patch: one for one in interchange_sets(base, frozen, rankings, reverse=True) if one.patch}
    assert set(by_patch) == {patch.name for patch in frozen}
    for patch in frozen:
        assert by_patch[patch.name].parts.neurons == patch.neurons
        assert by_patch[patch.name].control == (patch.kind == "control")


def test_whole_parts_and_ranked_neurons(made):
    base, frozen, rankings = made
    found = {one.name: one for one in interchange_sets(base, frozen, rankings, reverse=True)}
    assert found["neurons"].neurons == base.n_neurons
    assert found["mlp"].parts.mlps == found["attention"].parts.attentions == frozenset(range(base.n_blocks))
    assert found["mlp"].neurons is None
    for ranking in RANKINGS:
        for fraction in MEASURED:
            one = found[f"{ranking}-{fraction:g}"]
            assert one.parts.neurons == rankings.first(ranking, fraction)
            assert one.control == (ranking in ("matched", "random"))
    names = [one.name for one in interchange_sets(base, frozen, None, reverse=True)]
    assert not any(name.startswith(tuple(RANKINGS)) and name[-1].isdigit() for name in names)


def test_the_reverse_of_some(made):
    base, frozen, rankings = made
    back = {one.name: one for one in interchange_sets(base, frozen, rankings, reverse=True) if one.reverse}
    assert set(back) == {"reverse-TP+AN+TN+AP", "reverse-neurons", "reverse-attribution-0.05"}
    assert back["reverse-neurons"].neurons == base.n_neurons
    assert not any(one.reverse for one in interchange_sets(base, frozen, rankings, reverse=False))


def test_each_set_is_a_condition_that_depends_on_its_parts(made, tmp_path):
    base, frozen, rankings = made
    sets = interchange_sets(base, frozen, rankings, reverse=True)
    rows = interchange_conditions(sets, OtherWeights(tmp_path), "a-fingerprint")
    assert [row.name for row in rows] == [one.condition for one in sets]
    assert len({row.name for row in rows}) == len(rows)
    assert {row.role for row in rows} == {"interchange"}
    for one, row in zip(sets, rows, strict=True):
        built = row.build()
        assert isinstance(built, InterchangeWith)
        assert built.parts(base) is one.parts
        assert built.reverse == one.reverse
        assert row.about == {"parts": one.parts.digest, "reverse": one.reverse, "tuned": "a-fingerprint"}
