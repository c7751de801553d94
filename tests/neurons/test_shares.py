"""Shares of groups and sums of blocks against loops over single neurons."""

from dataclasses import replace

import polars as pl
import pytest

from dposcope.neurons.groups import Group
from dposcope.neurons.shares import group_shares, layer_sums
from helpers.changes import MOVED, family_change, neurons_of, random_change
from helpers.families import FAMILIES

CHANGES = [*FAMILIES, "zeros"]
"""Of every family, and one with neurons that are in no group."""


def change(name):
    return random_change() if name == "zeros" else family_change(name)


def unchanged():
    found = random_change()
    return replace(found, projection_after=found.projection_before, after=found.before)


@pytest.mark.parametrize("name", CHANGES)
def test_shares_are_those_of_counting(name):
    found = change(name)
    neurons, shares = neurons_of(found), group_shares(found)
    assert [str(share.group) for share in shares.groups] == MOVED
    for share in shares.groups:
        members = [neuron for neuron in neurons if neuron.moved == str(share.group)]
        alike = [neuron for neuron in neurons if neuron.effect == str(share.group)[-1]]
        weight, whole = (sum(neuron.delta for neuron in some) for some in (members, alike))
        assert share.neurons == len(members)
        assert share.of_all == len(members) / len(neurons)
        assert share.of_moved == len(members) / len(alike)
        assert share.contribution == pytest.approx(weight, rel=1e-9)
        assert share.of_contribution == pytest.approx(weight / whole, rel=1e-9)
        certain = sum(neuron.certain for neuron in members)
        assert share.certain == (certain / len(members) if members else 0)


@pytest.mark.parametrize("name", CHANGES)
def test_totals_are_those_of_counting(name):
    found = change(name)
    neurons, shares = neurons_of(found), group_shares(found)
    down = [neuron.delta for neuron in neurons if neuron.delta > 0]
    up = [neuron.delta for neuron in neurons if neuron.delta < 0]
    assert shares.neurons == len(neurons)
    assert (shares.reducing, shares.increasing) == (len(down), len(up))
    assert shares.share_reducing == len(down) / len(neurons)
    assert shares.share_increasing == len(up) / len(neurons)
    assert shares.reduction == pytest.approx(sum(down), rel=1e-9)
    assert shares.increase == pytest.approx(sum(up), rel=1e-9)
    assert shares.net == pytest.approx(sum(down) + sum(up), rel=1e-9)
    assert shares.negative_before == sum(neuron.before < 0 for neuron in neurons) / len(neurons)


def test_shares_of_each_way_add_up_to_one_where_every_neuron_has_a_group():
    shares = group_shares(random_change(zeros=False)).groups
    for way in (shares[:4], shares[4:]):
        assert sum(share.of_moved for share in way) == pytest.approx(1)
        assert sum(share.of_contribution for share in way) == pytest.approx(1)
    assert sum(share.of_all for share in shares) == pytest.approx(1)


def test_a_share_of_nothing_is_nothing():
    shares = group_shares(unchanged())
    assert (shares.reducing, shares.increasing, shares.net) == (0, 0, 0)
    for share in shares.groups:
        assert (share.neurons, share.of_all, share.of_moved, share.contribution) == (0, 0, 0, 0)
        assert (share.of_contribution, share.certain) == (0, 0)


def test_neurons_that_did_not_move_are_not_said_to_write_more():
    none, shares = group_shares(unchanged()), group_shares(random_change(zeros=False))
    assert (shares.others, none.others) == ("the others more", "the others as much as before")
    some = replace(shares, neurons=shares.neurons + 1234)
    assert some.others == "1,234 as much as before, the others more"


def test_the_table_has_a_row_per_group():
    shares = group_shares(random_change())
    table = shares.to_polars()
    floats = dict.fromkeys(("of_all", "of_moved", "contribution", "of_contribution", "certain"), pl.Float64)
    of_all = floats.pop("of_all")
    assert table.schema == {"group": pl.String, "neurons": pl.Int64, "of_all": of_all, **floats}
    for row, share in zip(table.rows(named=True), shares.groups, strict=True):
        assert row.pop("group") == str(share.group)
        assert row == {name: getattr(share, name) for name in row}


# Blocks


@pytest.mark.parametrize("name", CHANGES)
def test_sums_of_blocks_are_those_of_adding(name):
    found = change(name)
    neurons, sums = neurons_of(found), layer_sums(found)
    assert list(sums.groups) == list(Group)
    for block in range(len(found.cosine)):
        here = [neuron for neuron in neurons if neuron.block == block]
        down = sum(neuron.delta for neuron in here if neuron.delta > 0)
        up = sum(neuron.delta for neuron in here if neuron.delta < 0)
        assert sums.reduction[block].item() == pytest.approx(down, rel=1e-9)
        assert sums.increase[block].item() == pytest.approx(up, rel=1e-9)
        assert sums.net[block].item() == pytest.approx(sum(neuron.delta for neuron in here), rel=1e-9)
        for group, of_group in sums.groups.items():
            expected = sum(neuron.delta for neuron in here if neuron.moved == f"{group.value}↓")
            assert of_group[block].item() == pytest.approx(expected, rel=1e-9)


def test_blocks_of_an_unchanged_model_sum_to_nothing():
    sums = layer_sums(unchanged())
    for values in (sums.reduction, sums.increase, sums.net, *sums.groups.values()):
        assert values.tolist() == [0, 0, 0]


def test_the_table_has_a_row_per_block():
    sums = layer_sums(random_change())
    table = sums.to_polars()
    columns = ["reduction", "increase", "net", *MOVED[:4]]
    assert table.schema == {"block": pl.Int64, **dict.fromkeys(columns, pl.Float64)}
    assert table["block"].to_list() == [0, 1, 2]
    for name in columns[:3]:
        assert table[name].to_list() == getattr(sums, name).tolist()
    for name in MOVED[:4]:
        assert table[name].to_list() == sums.groups[Group(name[:2])].tolist()
