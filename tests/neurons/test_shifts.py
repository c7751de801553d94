"""Shifts of activations and vectors against loops over single neurons; an edit's shifts against those of tuning."""

import math
import statistics
from dataclasses import replace

import polars as pl
import pytest
import torch
from scipy.stats import pearsonr

from dposcope.errors import DposcopeError
from dposcope.interventions.gains import Gains
from dposcope.interventions.group_gains import gains_of
from dposcope.model.batches import batches, encode
from dposcope.neurons.activations import recording
from dposcope.neurons.contributions import contributions
from dposcope.neurons.groups import Group, select_fraction
from dposcope.neurons.shifts import (
    change_summary,
    correlations,
    edit_agreement,
    shift_density,
    shift_of_gains,
    shift_percent,
    top_toxic,
)
from helpers.changes import MOVED, family_change, neurons_of, random_change, random_means
from helpers.families import FAMILIES, TEXTS, assert_close, random_direction, random_gains

CHANGES = [*FAMILIES, "zeros"]
"""Of every family, and one with neurons that are in no group."""


def change(name):
    return random_change() if name == "zeros" else family_change(name)


def quantile(values, share):
    """By hand: on a straight line between neighbours."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def unchanged():
    found = random_change()
    return replace(found, after=found.before)


# Density


@pytest.mark.parametrize(("bins", "cut"), [(1, 0.0), (7, 0.1), (100, 0.01), (12, 0.5)])
@pytest.mark.parametrize("name", CHANGES)
def test_a_density_is_that_of_counting(name, bins, cut):
    found = change(name)
    neurons, density = neurons_of(found), shift_density(found, bins=bins, cut=cut)
    shifts = [neuron.shift for neuron in neurons]
    low, high = quantile(shifts, cut / 2), quantile(shifts, 1 - cut / 2)
    edges = density.edges.tolist()
    assert edges == pytest.approx([low + (high - low) * step / bins for step in range(bins + 1)], rel=1e-9, abs=1e-12)

    def count(values, bin_):
        last = bin_ == bins - 1
        return sum(edges[bin_] <= x < edges[bin_ + 1] or (last and x == edges[-1]) for x in values)

    assert density.counts.tolist() == [count(shifts, bin_) for bin_ in range(bins)]
    assert [str(group) for group in density.groups] == MOVED
    for group, counts in density.groups.items():
        members = [neuron.shift for neuron in neurons if neuron.moved == str(group)]
        assert counts.tolist() == [count(members, bin_) for bin_ in range(bins)]
    assert density.below == sum(x < edges[0] for x in shifts)
    assert density.above == sum(x > edges[-1] for x in shifts)
    assert density.below + density.above <= cut * len(shifts) + 2
    assert density.mean == pytest.approx(statistics.fmean(shifts), rel=1e-9, abs=1e-12)
    assert density.deviation == pytest.approx(statistics.pstdev(shifts), rel=1e-9)


@pytest.mark.parametrize("cut", [0.0, 0.2])
def test_the_area_under_a_density_is_the_share_not_cut(cut):
    found = random_change(1)
    density = shift_density(found, bins=9, cut=cut)
    kept = 1 - (density.below + density.above) / found.cosine.numel()
    assert (kept == 1) == (cut == 0)
    assert (density.density * density.edges.diff()).sum().item() == pytest.approx(kept)


def test_a_model_that_did_not_move_is_one_bar():
    density = shift_density(unchanged(), bins=5)
    assert density.edges[0] < 0 < density.edges[-1]
    assert sorted(density.counts.tolist()) == [0, 0, 0, 0, 120]
    assert (density.below, density.above, density.mean, density.deviation) == (0, 0, 0, 0)


def test_the_table_of_a_density_has_a_row_per_bin():
    density = shift_density(random_change(), bins=6)
    table = density.to_polars()
    edges = {"low": pl.Float64, "high": pl.Float64}
    assert table.schema == {
        **edges,
        "neurons": pl.Int64,
        "density": pl.Float64,
        **dict.fromkeys(MOVED, pl.Int64),
    }
    assert table["low"].to_list() == density.edges[:-1].tolist()
    assert table["high"].to_list() == density.edges[1:].tolist()
    assert table["neurons"].to_list() == density.counts.tolist()
    assert table["density"].to_list() == density.density.tolist()
    for group, counts in density.groups.items():
        assert table[str(group)].to_list() == counts.tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bins": 0}, "a histogram cannot have 0 bins; ask for at least one"),
        ({"cut": 1.0}, r"cut 1\.0 is outside \[0, 1\); it is the share of neurons to leave out"),
        ({"cut": -0.1}, r"cut -0\.1 is outside"),
        ({"cut": math.nan}, "cut nan is outside"),
    ],
)
def test_densities_out_of_range_are_refused(settings, message):
    with pytest.raises(DposcopeError, match=message):
        shift_density(random_change(), **settings)


# The most toxic neurons


@pytest.mark.parametrize("n", [1, 10, 10_000])
@pytest.mark.parametrize("name", CHANGES)
def test_the_most_toxic_neurons_are_those_of_a_sorted_list(name, n):
    found = change(name)
    expected = sorted(neurons_of(found), key=lambda neuron: -neuron.cosine)[:n]
    top = top_toxic(found, n)
    rows = top.to_polars()
    assert rows.schema == {"block": pl.Int64, "index": pl.Int64, **dict.fromkeys(rows.columns[2:], pl.Float64)}
    assert rows.columns == ["block", "index", "cosine", "before", "after"]
    assert rows.rows() == [(one.block, one.index, one.cosine, one.before, one.after) for one in expected]
    assert top.negative_before == pytest.approx(sum(one.before < 0 for one in expected) / len(expected))
    assert top.negative_after == pytest.approx(sum(one.after < 0 for one in expected) / len(expected))


def test_ties_among_the_most_toxic_go_to_the_lower_block_then_index():
    found = random_change()
    top = top_toxic(replace(found, cosine=torch.full_like(found.cosine, 0.5)), 41)
    assert list(zip(top.block.tolist(), top.index.tolist(), strict=True)) == [*((0, i) for i in range(40)), (1, 0)]


def test_no_toxic_neuron_is_refused():
    with pytest.raises(DposcopeError, match="cannot take the top 0 neurons; ask for at least one"):
        top_toxic(random_change(), 0)


# Correlations


def pearson_by_hand(x, y):
    """From the definition."""
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    together = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return together / math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))


@pytest.mark.parametrize("name", CHANGES)
def test_correlations_are_those_of_the_definition(name):
    found = change(name)
    neurons, both = neurons_of(found), correlations(found)
    shifts = [neuron.shift for neuron in neurons]
    for correlation, values in (
        (both.cosine, [neuron.cosine for neuron in neurons]),
        (both.activation, [neuron.before for neuron in neurons]),
    ):
        assert correlation.r == pytest.approx(pearson_by_hand(shifts, values), rel=1e-8)
        assert correlation.p == pytest.approx(pearsonr(shifts, values).pvalue, rel=1e-6)
        assert correlation.neurons == len(neurons)


def test_nothing_goes_with_what_is_the_same_everywhere():
    found = random_change()
    both = correlations(replace(found, cosine=torch.full_like(found.cosine, 0.3)))
    assert (both.cosine.r, both.cosine.p, both.cosine.neurons) == (None, None, 120)
    assert both.activation.r is not None
    still = correlations(unchanged())
    assert still.cosine.r is still.activation.r is None


def test_a_spread_of_roundings_is_none():
    """The same constant everywhere but in its last bit: any r would be noise."""
    found = random_change()
    constant = torch.full_like(found.cosine, 0.3)
    constant[0, ::2] += 1e-16
    assert constant.unique().numel() == 2
    assert correlations(replace(found, cosine=constant)).cosine.r is None
    assert correlations(replace(found, cosine=constant + 1e-9 * found.cosine)).cosine.r is not None


def test_the_table_of_correlations_has_a_row_per_property():
    both = correlations(random_change())
    table = both.to_polars()
    schema = {"with": pl.String, "r": pl.Float64, "p": pl.Float64, "neurons": pl.Int64}
    assert table.schema == schema
    assert table.rows() == [
        ("cosine", both.cosine.r, both.cosine.p, 120),
        ("activation", both.activation.r, both.activation.p, 120),
    ]
    assert correlations(unchanged()).to_polars().schema == schema


# How much changed


@pytest.mark.parametrize("name", CHANGES)
def test_a_summary_is_that_of_the_definition(name):
    found = change(name)
    neurons, summary = neurons_of(found), change_summary(found)
    cosines = found.vector_cosine.flatten().tolist()
    assert summary.vector_cosine == pytest.approx(statistics.fmean(cosines), rel=1e-12)
    assert summary.vector_cosine_min == min(cosines)
    assert list(summary.vector_cosine_percentiles) == [1, 5, 25, 50, 75, 95, 99]
    for percent, value in summary.vector_cosine_percentiles.items():
        assert value == pytest.approx(quantile(cosines, percent / 100), rel=1e-9)
    moved = statistics.fmean(abs(neuron.shift) for neuron in neurons)
    size = statistics.fmean(abs(neuron.before) for neuron in neurons)
    assert summary.shift_percent == pytest.approx(100 * moved / size, rel=1e-9)
    assert summary.shift_percent == shift_percent(found)
    ratios = [abs(neuron.shift) / abs(neuron.before) for neuron in neurons if neuron.before != 0]
    assert summary.median_shift_percent == pytest.approx(100 * statistics.median(ratios), rel=1e-9)
    table = summary.to_polars()
    percentiles = {f"vector_cosine_p{percent}": value for percent, value in summary.vector_cosine_percentiles.items()}
    assert table.rows(named=True) == [
        {
            "vector_cosine": summary.vector_cosine,
            "vector_cosine_min": summary.vector_cosine_min,
            **percentiles,
            "shift_percent": summary.shift_percent,
            "median_shift_percent": summary.median_shift_percent,
        }
    ]
    assert set(table.dtypes) == {pl.Float64}


def test_a_model_that_did_not_move_has_moved_by_nothing():
    found = replace(unchanged(), vector_cosine=torch.ones(3, 40))
    summary = change_summary(found)
    assert (summary.vector_cosine, summary.vector_cosine_min) == (1, 1)
    assert (summary.shift_percent, summary.median_shift_percent) == (0, 0)


def test_a_percentage_of_nothing_is_refused():
    found = random_change()
    before = replace(found.before, mean=torch.zeros_like(found.before.mean))
    with pytest.raises(DposcopeError, match="all mean activations before tuning are 0; collect means on more prompts"):
        change_summary(replace(found, before=before))


# An edit beside tuning


def edited(found, *, alpha=0.1, beta=0.5):
    """The paper's edit."""
    selection = select_fraction(found.cosine, found.before.mean, beta=beta)
    return gains_of(selection, alpha=alpha)


def assert_agreement(found, edit_shift):
    neurons, agreement = neurons_of(found), edit_agreement(found, edit_shift)
    shifts = edit_shift.flatten().tolist()
    assert list(agreement.groups) == list(Group)
    for group, actual in (("all", agreement.overall), *agreement.groups.items()):
        pairs = [
            (edit, neuron.shift)
            for edit, neuron in zip(shifts, neurons, strict=True)
            if group == "all" or neuron.group == group.value
        ]
        assert actual.correlation.neurons == len(pairs)
        if len(pairs) > 2:
            assert actual.correlation.r == pytest.approx(pearson_by_hand(*zip(*pairs, strict=True)), rel=1e-8)
            assert actual.correlation.p == pytest.approx(pearsonr(*zip(*pairs, strict=True)).pvalue, rel=1e-6)
        moved = [(edit, tuned) for edit, tuned in pairs if edit != 0 and tuned != 0]
        same = [edit > 0 for edit, tuned in moved if (edit > 0) == (tuned > 0)]
        assert actual.moved_by_both == len(moved)
        assert actual.same_sign == (pytest.approx(len(same) / len(moved)) if moved else None)
        assert actual.edit_size == pytest.approx(statistics.fmean(abs(edit) for edit, _ in pairs), rel=1e-9)
        assert actual.tuned_size == pytest.approx(statistics.fmean(abs(tuned) for _, tuned in pairs), rel=1e-9)


@pytest.mark.parametrize("name", CHANGES)
def test_the_agreement_of_gains_is_that_of_the_definition(name):
    found = change(name)
    gains = edited(found).values
    shift = shift_of_gains(found, gains)
    for neuron, g, actual in zip(neurons_of(found), gains.flatten().tolist(), shift.flatten().tolist(), strict=True):
        assert actual == (1 - g) * neuron.before
    assert 0 < (shift == 0).sum() < shift.numel()
    assert_agreement(found, shift)


@pytest.mark.parametrize("name", CHANGES)
def test_the_agreement_of_means_is_that_of_the_definition(name):
    found = change(name)
    means = random_means(tuple(found.cosine.shape), seed=7)
    assert_agreement(found, found.before.mean - means.mean)


def test_the_papers_edit_moves_a_group_one_way():
    """TP and AN shrink, TN and AP grow: T activations fall and A activations rise."""
    found = family_change("llama")
    shift = shift_of_gains(found, edited(found, beta=1.0).values)
    agreement = edit_agreement(found, shift)
    for group, actual in agreement.groups.items():
        members = [neuron for neuron in neurons_of(found) if neuron.group == group.value]
        fell = sum(neuron.shift > 0 for neuron in members) / len(members)
        assert actual.same_sign == pytest.approx(fell if group in (Group.TP, Group.TN) else 1 - fell)


def test_tuning_agrees_with_itself_and_not_with_its_opposite():
    found = random_change()
    for sign in (1, -1):
        agreement = edit_agreement(found, 0.5 * sign * found.activation_shift)
        for actual in (agreement.overall, *agreement.groups.values()):
            assert actual.correlation.r == pytest.approx(sign)
            assert actual.same_sign == (sign > 0)
            assert actual.edit_size == pytest.approx(0.5 * actual.tuned_size)


def test_shifts_whose_product_vanishes_still_have_signs():
    found = random_change(zeros=False)
    agreement = edit_agreement(found, 1e-320 * found.activation_shift.sign())
    assert agreement.overall.moved_by_both == 120
    assert agreement.overall.same_sign == 1


def test_an_edit_of_nothing_agrees_with_nothing():
    found = random_change()
    overall = edit_agreement(found, shift_of_gains(found, torch.ones(3, 40))).overall
    assert (overall.correlation.r, overall.moved_by_both, overall.same_sign, overall.edit_size) == (None, 0, None, 0)


def test_a_group_without_neurons_has_no_sizes():
    found = random_change()
    agreement = edit_agreement(replace(found, cosine=found.cosine.abs()), torch.ones(3, 40))
    empty = agreement.groups[Group.AP]
    assert (empty.correlation.r, empty.correlation.neurons) == (None, 0)
    assert (empty.moved_by_both, empty.same_sign, empty.edit_size, empty.tuned_size) == (0, None, None, None)


def test_gains_shift_what_a_hooked_model_shows(lm):
    """In the first block, which nothing edited comes before; later blocks read what it wrote."""
    gains = Gains(random_gains(lm))
    encoded = encode(lm, TEXTS)

    def means():
        with recording(lm) as accumulator:
            for batch in batches(lm, encoded, batch_size=8, side="right"):
                lm.model(input_ids=batch.ids, attention_mask=batch.mask)
        return accumulator.value()

    before = means()
    with gains.on(lm):
        after = means()
    found = contributions(lm, lm, before, before, random_direction(lm))
    shift = shift_of_gains(found, gains.values)
    seen = before.mean - after.mean
    assert shift[0].abs().max() > 0.01
    assert_close(shift[0], seen[0], 1e-6)
    assert (shift[1] - seen[1]).abs().max() > 0.01


def test_the_table_of_an_agreement_has_a_row_per_group():
    found = random_change()
    agreement = edit_agreement(found, shift_of_gains(found, edited(found).values))
    table = agreement.to_polars()
    schema = {
        "group": pl.String,
        "neurons": pl.Int64,
        "r": pl.Float64,
        "p": pl.Float64,
        "moved_by_both": pl.Int64,
        "same_sign": pl.Float64,
        "edit_size": pl.Float64,
        "tuned_size": pl.Float64,
    }
    assert table.schema == schema
    assert table["group"].to_list() == ["all", "TP", "TN", "AP", "AN"]
    for row, actual in zip(table.rows(named=True), (agreement.overall, *agreement.groups.values()), strict=True):
        assert (row["neurons"], row["r"], row["p"]) == (
            actual.correlation.neurons,
            actual.correlation.r,
            actual.correlation.p,
        )
        for name in ("moved_by_both", "same_sign", "edit_size", "tuned_size"):
            assert row[name] == getattr(actual, name)
    assert edit_agreement(found, torch.zeros(3, 40)).to_polars().schema == schema


def test_shifts_that_do_not_fit_are_refused():
    found = random_change()
    with pytest.raises(DposcopeError, match=r"edit_shift has shape \[3, 39\], contributions \[3, 40\]; take both"):
        edit_agreement(found, torch.ones(3, 39))
    with pytest.raises(DposcopeError, match=r"gains has shape \[2, 40\]"):
        shift_of_gains(found, torch.ones(2, 40))
    with pytest.raises(DposcopeError, match="edit_shift holds NaN or infinity; run the edited model in bfloat16"):
        edit_agreement(found, torch.full((3, 40), math.nan))
