"""Ranked neurons against a sorted list."""

import math

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dposcope.errors import DposcopeError
from dposcope.neurons.activations import NeuronMeans
from dposcope.neurons.contributions import Contributions
from dposcope.neurons.groups import Group
from dposcope.neurons.ranks import (
    CUMULATIVE_RANGE,
    GPT2_NEURONS,
    LLAMA_NEURONS,
    SHIFT_RANGES,
    RankRange,
    cumulative_reduction,
    rank_range_shifts,
)
from helpers.changes import MOVED, family_change, neurons_of, random_change
from helpers.families import FAMILIES

CHANGES = [*FAMILIES, "zeros"]
"""Of every family, and one with neurons that are in no group."""


def change(name):
    return random_change() if name == "zeros" else family_change(name)


def ranked(found):
    """↓ neurons, the strongest first; a sort keeps the order of what is equal."""
    return sorted((neuron for neuron in neurons_of(found) if neuron.delta > 0), key=lambda neuron: -neuron.delta)


def written_by_hand(totals, before=None):
    """Contributions `[L, d_mlp]` that are these numbers."""
    totals = torch.tensor(totals, dtype=torch.float64)
    ones = torch.ones_like(totals)
    before = ones if before is None else torch.tensor(before, dtype=torch.float64)
    after = before - totals
    moments = [NeuronMeans(mean, mean.square(), 5) for mean in (before, after)]
    return Contributions(ones, ones, ones, ones, *moments)


NOTHING = written_by_hand([[0.0, -1.0, -2.0], [-1.0, 0.0, 0.0]])
"""No neuron reduces."""


# Ranges


@pytest.mark.parametrize(
    ("printed", "neurons", "reducing", "start", "stop"),
    [
        # As many neurons as it takes: the paper's own ranks.
        (CUMULATIVE_RANGE, LLAMA_NEURONS, 239_460, 0, 40_000),
        (CUMULATIVE_RANGE, GPT2_NEURONS, 57_501, 0, 40_000),
        (CUMULATIVE_RANGE, 40_000, 40_000, 0, 40_000),
        (SHIFT_RANGES[0], 36_864, 18_500, 2_000, 2_500),
        (SHIFT_RANGES[2], 36_864, 5_500, 5_000, 5_500),
        # Too few: 36,864 is 0.08036 of Llama's neurons, and 0.375 of GPT-2's.
        (CUMULATIVE_RANGE, 36_864, 18_500, 0, 3_214),
        (SHIFT_RANGES[2], 36_864, 5_499, 1_875, 2_062),
        (SHIFT_RANGES[0], 9_175, 2_000, 40, 50),
        # Fewer than one rank, beyond the last ↓ neuron, across it, and none at all.
        (SHIFT_RANGES[0], 72, 40, 0, 1),
        (SHIFT_RANGES[2], 98_304, 3_000, 2_999, 3_000),
        (SHIFT_RANGES[2], 98_304, 5_200, 5_000, 5_200),
        (SHIFT_RANGES[0], 72, 0, 0, 1),
    ],
)
def test_a_range_is_used_as_printed_or_as_the_same_fraction(printed, neurons, reducing, start, stop):
    assert printed.on(neurons, reducing) == RankRange(start, stop, neurons)


@given(st.sampled_from([CUMULATIVE_RANGE, *SHIFT_RANGES]), st.integers(1, 10**6), st.floats(0, 1))
def test_a_range_holds_a_neuron_wherever_one_reduces(printed, neurons, share):
    reducing = math.floor(share * neurons)
    used = printed.on(neurons, reducing)
    assert 0 <= used.start < used.stop <= max(reducing, 1)
    assert used.stop - used.start <= max(printed.stop - printed.start, 1) or neurons > printed.neurons


def test_a_range_is_written_as_in_the_paper():
    assert str(SHIFT_RANGES[0]) == "2000–2500"


@pytest.mark.parametrize("bad", [(-1, 5, 10), (5, 5, 10), (6, 5, 10), (0, 11, 10)])
def test_what_is_no_range_is_refused(bad):
    with pytest.raises(DposcopeError, match=rf"rank range {bad[0]}–{bad[1]} of 10 neurons; give 0 ≤ start < stop"):
        RankRange(*bad)


# Cumulative reduction


@pytest.mark.parametrize("points", [4, 5, 30, 200])
@pytest.mark.parametrize("name", CHANGES)
def test_cumulative_reduction_is_that_of_a_sorted_list(name, points):
    found = change(name)
    curve, neurons = cumulative_reduction(found, points=points), ranked(found)
    whole = sum(neuron.delta for neuron in neurons)
    ranks = curve.ranks.tolist()
    assert ranks == sorted(set(ranks))
    assert (ranks[0], ranks[-1]) == (1, len(neurons))
    assert len(ranks) <= points
    for place, rank in enumerate(ranks):
        first = neurons[:rank]
        assert curve.share[place].item() == pytest.approx(sum(neuron.delta for neuron in first) / whole, rel=1e-9)
        for group, share in curve.groups.items():
            part = sum(neuron.delta for neuron in first if neuron.group == group.value)
            assert share[place].item() == pytest.approx(part / whole, rel=1e-9, abs=1e-15)
    assert curve.share[-1] == 1


def test_a_curve_with_points_for_all_has_every_rank():
    found = random_change()
    assert cumulative_reduction(found, points=400).ranks.tolist() == list(range(1, len(found.reduces) + 1))


def test_the_papers_rank_is_on_the_curve():
    """3 × 4,000 neurons: the paper's 40,000 of 458,752 are 1,046."""
    curve = cumulative_reduction(random_change(3, (3, 4000)), points=20)
    assert curve.paper_rank == 1046
    assert 1046 in curve.ranks.tolist()


def test_no_reduction_has_no_curve():
    curve = cumulative_reduction(NOTHING)
    assert curve.paper_rank == 0
    assert curve.to_polars().height == 0
    assert curve.to_polars().schema == cumulative_reduction(random_change()).to_polars().schema


def test_the_table_of_the_curve_has_a_row_per_point():
    curve = cumulative_reduction(random_change(), points=9)
    table = curve.to_polars()
    assert table.schema == {"rank": pl.Int64, "share": pl.Float64, **dict.fromkeys(MOVED[:4], pl.Float64)}
    assert table["rank"].to_list() == curve.ranks.tolist()
    assert table["share"].to_list() == curve.share.tolist()
    for name in MOVED[:4]:
        assert table[name].to_list() == curve.groups[Group(name[:2])].tolist()


def test_too_few_points_are_refused():
    with pytest.raises(DposcopeError, match="a curve cannot have 3 points; ask for 4 or more"):
        cumulative_reduction(random_change(), points=3)


# Shifts of ranges

RANGES = (RankRange(0, 5, 72), RankRange(3, 11, 72), RankRange(40, 60, 72))


@pytest.mark.parametrize("name", CHANGES)
def test_shifts_of_a_range_are_those_of_a_sorted_list(name):
    found = change(name)
    neurons = ranked(found)
    for printed, shifts in zip(RANGES, rank_range_shifts(found, RANGES).ranges, strict=True):
        assert shifts.printed == printed
        assert shifts.used == printed.on(found.cosine.numel(), len(neurons))
        here = neurons[shifts.used.start : shifts.used.stop]
        assert len(here) > 0
        assert shifts.block.tolist() == [neuron.block for neuron in here]
        assert shifts.index.tolist() == [neuron.index for neuron in here]
        assert shifts.shift.tolist() == [neuron.shift for neuron in here]
        assert shifts.contribution.tolist() == pytest.approx([neuron.delta for neuron in here], rel=1e-9)
        for group in Group:
            assert shifts.groups[group].tolist() == [neuron.group == group.value for neuron in here]
            assert shifts.of(group).tolist() == [neuron.shift for neuron in here if neuron.group == group.value]


@pytest.mark.parametrize("name", CHANGES)
def test_the_papers_ranges_hold_neurons_on_any_model(name):
    found = rank_range_shifts(change(name))
    assert tuple(shifts.printed for shifts in found.ranges) == SHIFT_RANGES
    assert all(len(shifts.shift) >= 1 for shifts in found.ranges)


def test_ties_go_to_the_lower_block_then_index():
    found = written_by_hand([[0.25, 0.5, 0.25], [0.5, -1.0, 0.5]])
    shifts = rank_range_shifts(found, [RankRange(0, 5, 6)]).ranges[0]
    assert list(zip(shifts.block.tolist(), shifts.index.tolist(), strict=True)) == [
        (0, 1),
        (1, 0),
        (1, 2),
        (0, 0),
        (0, 2),
    ]


def test_no_reduction_has_no_shifts():
    found = rank_range_shifts(NOTHING)
    assert all(len(shifts.shift) == 0 for shifts in found.ranges)
    assert found.to_polars().height == 0
    assert found.to_polars().schema == rank_range_shifts(random_change()).to_polars().schema


def test_the_table_of_shifts_has_a_row_per_range_and_neuron():
    found = random_change()
    second = ranked(found)[1]
    found.cosine[second.block, second.index] = 0  # on the border, so in no group
    neurons = ranked(found)
    table = rank_range_shifts(found, [RankRange(0, 500, 98_304), RankRange(0, 3, 120)]).to_polars()
    assert table.schema == {
        "printed": pl.String,
        "used": pl.String,
        "rank": pl.Int64,
        "block": pl.Int64,
        "index": pl.Int64,
        "group": pl.String,
        "shift": pl.Float64,
        "contribution": pl.Float64,
    }
    expected = [("0–500", "0–1", 0), ("0–3", "0–3", 0), ("0–3", "0–3", 1), ("0–3", "0–3", 2)]
    for row, (printed, used, rank) in zip(table.rows(named=True), expected, strict=True):
        neuron = neurons[rank]
        assert (row["printed"], row["used"], row["rank"]) == (printed, used, rank)
        assert (row["block"], row["index"], row["group"]) == (neuron.block, neuron.index, neuron.group)
        assert row["shift"] == neuron.shift
        assert row["contribution"] == pytest.approx(neuron.delta, rel=1e-9)
    assert table["group"].null_count() == 1


def test_no_range_is_refused():
    with pytest.raises(DposcopeError, match="no rank range to read; give at least one, or leave ranges out"):
        rank_range_shifts(random_change(), [])
