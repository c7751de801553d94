"""The paper's patches by name."""

import pytest
import torch

from dposcope.jobs.explain.patches import patches
from dposcope.neurons.activations import NeuronMeans
from dposcope.neurons.contributions import Contributions
from dposcope.neurons.sets import NeuronSet

L, M = 3, 40


@pytest.fixture(scope="module")
def change() -> Contributions:
    draw = torch.Generator().manual_seed(1)

    def table():
        return torch.randn(L, M, generator=draw, dtype=torch.float64)

    before, after = (NeuronMeans(mean, mean.square() + 1, 50) for mean in (table(), table()))
    return Contributions(table() / 4, table(), table(), torch.ones(L, M), before, after)


def naive(change, orientation, sign):
    """Neurons of one group that reduce, one by one."""
    found = set()
    for block in range(L):
        for i in range(M):
            before, after = float(change.before.mean[block, i]), float(change.after.mean[block, i])
            delta = before * float(change.projection_before[block, i]) - after * float(
                change.projection_after[block, i]
            )
            cosine = float(change.cosine[block, i])
            if delta > 0 and (cosine > 0) == (orientation == "T") and (before > 0) == (sign == "P"):
                found.add((block, i))
    return found


def members(patch):
    return {tuple(place) for place in patch.neurons.mask.nonzero().tolist()}


def test_groups_and_their_sums_are_the_papers(change):
    toxic = NeuronSet(torch.zeros(L, M, dtype=torch.bool).index_fill(1, torch.tensor([3, 5]), value=True))
    by_name = {patch.name: patch for patch in patches(change, toxic={"top 6": toxic})}
    assert list(by_name) == [
        "patch-top-6",
        "patch-TP",
        "patch-AN",
        "patch-TN",
        "patch-AP",
        "patch-TP+AN",
        "patch-TP+AN+TN",
        "patch-TP+AN+TN+AP",
        "patch-increasing",
        "patch-random-layers",
        "patch-random",
    ]
    groups = {name: naive(change, *name) for name in ("TP", "AN", "TN", "AP")}
    for name, expected in groups.items():
        assert members(by_name[f"patch-{name}"]) == expected, name
        assert by_name[f"patch-{name}"].label == f"Patch {name}↓"
    assert members(by_name["patch-TP+AN"]) == groups["TP"] | groups["AN"]
    assert members(by_name["patch-TP+AN+TN+AP"]) == set.union(*groups.values())
    assert members(by_name["patch-increasing"]).isdisjoint(members(by_name["patch-TP+AN+TN+AP"]))
    assert members(by_name["patch-top-6"]) == {(block, i) for block in range(L) for i in (3, 5)}


def test_controls_are_as_many_and_seeded(change):
    first, again, other = ({patch.name: patch for patch in patches(change, toxic={}, seed=seed)} for seed in (0, 0, 1))
    whole = first["patch-TP+AN+TN+AP"].neurons
    layers, anywhere = first["patch-random-layers"].neurons, first["patch-random"].neurons
    assert torch.equal(layers.mask.sum(1), whole.mask.sum(1))
    assert len(anywhere) == len(whole)
    assert not torch.equal(anywhere.mask.sum(1), whole.mask.sum(1))
    for name in ("patch-random-layers", "patch-random"):
        assert torch.equal(first[name].neurons.mask, again[name].neurons.mask)
        assert not torch.equal(first[name].neurons.mask, other[name].neurons.mask)
        assert not torch.equal(first[name].neurons.mask, whole.mask)
        assert first[name].kind == "control"
    assert {"patch-random", "patch-random-layers"}.isdisjoint(
        patch.name for patch in patches(change, toxic={}, controls=False)
    )


def test_a_patch_assigns_means_after_tuning(change):
    patch = patches(change, toxic={})[0]
    assign = patch.assign(change)
    assert torch.equal(assign.values, change.after.mean.float())
    assert torch.equal(assign.neurons.mask, patch.neurons.mask)
    assert assign.positions == "last"


def test_sets_without_a_neuron_are_left_out(change):
    nothing = NeuronSet(torch.zeros(L, M, dtype=torch.bool))
    assert "patch-toxic-tokens" not in {patch.name for patch in patches(change, toxic={"toxic tokens": nothing})}
