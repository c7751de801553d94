"""Columns without a neuron, where blocks differ in width: no statistic counts them.

Every statistic of ragged contributions is that of the same neurons in one long block without absent columns.
"""

import base64
from dataclasses import fields, replace

import pytest
import torch

from dposcope.interventions.gains import Gains
from dposcope.jobs.explain.browser import strongest_neurons
from dposcope.jobs.explain.figures import group_layers, layer_balance
from dposcope.jobs.explain.interchange.carriers import FRACTIONS, RANKINGS, Rankings
from dposcope.jobs.explain.patches import patches
from dposcope.neurons.activations import NeuronMeans
from dposcope.neurons.contributions import Contributions
from dposcope.neurons.groups import group_sets, select_fraction
from dposcope.neurons.ranks import cumulative_reduction, rank_range_shifts
from dposcope.neurons.sets import NeuronSet
from dposcope.neurons.shares import group_shares, layer_sums
from dposcope.neurons.shifts import change_summary, correlations, edit_agreement, shift_density, top_toxic
from dposcope.neurons.stability import Repetitions, stability
from dposcope.report.browser.heat_map import heat_map
from dposcope.report.browser.neurons import ABSENT, NeuronBrowser
from dposcope.report.browser.packing import packed_parts
from dposcope.report.browser.page import browser_html
from dposcope.report.masked_text import ShownText

WIDTHS = (7, 40, 25)
HERE = torch.arange(40) < torch.tensor(WIDTHS).unsqueeze(1)


def ragged(seed=0, widths=WIDTHS):
    stream = torch.Generator().manual_seed(seed)
    here = torch.arange(40) < torch.tensor(widths).unsqueeze(1)

    def table(spread=1.0):
        return (spread * torch.randn(here.shape, generator=stream, dtype=torch.float64)).where(here, 0.0)

    before, after = (NeuronMeans(mean := table(), (mean**2 + 1).where(here, 0.0), 9, here=here) for _ in range(2))
    cosine, projection = table(0.3).clamp(-1, 1), table()
    return Contributions(cosine, projection, projection + table(0.1), table(0.1) + 0.8 * here, before, after)


def in_one_row(c):
    """The same neurons, one after the other, in one block."""

    def row(table):
        return table[HERE].unsqueeze(0)

    before, after = (
        replace(one, mean=row(one.mean), second_moment=row(one.second_moment), here=None) for one in (c.before, c.after)
    )
    tables = (row(getattr(c, name)) for name in ("cosine", "projection_before", "projection_after", "vector_cosine"))
    return Contributions(*tables, before, after)


def same(one, other):
    """Every field, but places in blocks."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other)
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-12)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            same(one[key], other[key])
    elif isinstance(one, tuple):
        for left, right in zip(one, other, strict=True):
            same(left, right)
    elif hasattr(one, "__dataclass_fields__"):
        for field in fields(one):
            if field.name not in ("block", "index"):
                same(getattr(one, field.name), getattr(other, field.name))
    else:
        assert one == other


@pytest.mark.parametrize(
    "statistic",
    [
        group_shares,
        cumulative_reduction,
        rank_range_shifts,
        shift_density,
        lambda c: top_toxic(c, 100),
        correlations,
        change_summary,
        lambda c: edit_agreement(c, 0.3 * c.activation_shift + 0.1 * c.cosine),
    ],
)
def test_a_statistic_is_that_of_the_neurons_alone(statistic):
    c = ragged()
    same(statistic(c), statistic(in_one_row(c)))


def test_stability_and_agreement_are_those_of_the_neurons_alone():
    changes = [ragged(seed) for seed in range(3)]
    found, plain = (
        stability([Repetitions("prompts", ("a", "b", "c"), tuple(made))], toxic=30)
        for made in (changes, [in_one_row(c) for c in changes])
    )
    same(found, plain)


def test_sums_of_blocks_and_groups_have_no_absent_column():
    c = ragged()
    sums = layer_sums(c)
    for block, width in enumerate(WIDTHS):
        assert float(sums.net[block]) == pytest.approx(float(c.total[block, :width].sum()))
    everything = [*group_sets(c.cosine, c.before.mean).values(), c.reduces, c.increases, c.certain]
    assert not any((neurons.mask & ~HERE).any() for neurons in everything)
    assert c.neurons == len(c.everything) == sum(WIDTHS)
    assert c.to_polars().group_by("block", maintain_order=True).len()["len"].to_list() == list(WIDTHS)


def test_a_block_without_an_mlp_is_in_no_sum_by_block():
    """Its 0 would stand among what was measured."""
    c = ragged(widths=(7, 0, 25))
    sums = layer_sums(c)
    assert sums.blocks == sums.to_polars()["block"].to_list() == [0, 2]
    for figure in (layer_balance(sums), group_layers(sums)):
        (axes,) = figure.axes
        assert {tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2} >= {(0, 2)}
    assert len(layer_balance(sums).axes[0].patches) == 2
    browser = NeuronBrowser.of(c, model="base", tuned="tuned", direction="probe")
    *_, net = heat_map(browser).rows
    assert [cell.short for cell in net.cells][1] == net.cells[1].signed == "no MLP"
    assert "no MLP" not in [net.cells[0].short, net.cells[2].signed]
    assert layer_sums(ragged()).blocks == [0, 1, 2]
    page = browser_html(browser)
    assert [f'href="#neurons?n={block}"' in page for block in range(3)] == [True, False, True]


def test_random_controls_and_rankings_draw_neurons_only():
    c = ragged()
    everything = NeuronSet(HERE)
    some = NeuronSet(HERE & (c.cosine > 0))
    drawn = [some.random_like(seed, among=everything) for seed in range(20)]
    drawn += [some.random_matched(seed, by=c.total.abs(), bins=7, among=everything) for seed in range(20)]
    for one in drawn:
        assert len(one) == len(some)
        assert not (one.mask & ~HERE).any()
    assert all(one.per_block == some.per_block for one in drawn[:20])
    for patch in patches(c, toxic={}, seed=3):
        assert not (patch.neurons.mask & ~HERE).any(), patch.name
    rankings = Rankings(c.total.neg(), c.total, 5, c.everything)
    for name in RANKINGS:
        for fraction in FRACTIONS:
            chosen = rankings.first(name, fraction)
            assert len(chosen) == max(1, round(fraction * sum(WIDTHS)))
            assert not (chosen.mask & ~HERE).any()
    assert len(set(strongest_neurons(c, 1000))) == sum(WIDTHS)


def test_gains_are_shuffled_among_neurons():
    values = torch.ones(HERE.shape)
    values[HERE] += torch.arange(int(HERE.sum()))
    shuffled = Gains(values).shuffled(1, among=NeuronSet(HERE)).values
    assert (shuffled[~HERE] == 1).all()
    for before, after, width in zip(values, shuffled, WIDTHS, strict=True):
        assert before[:width].tolist() == sorted(after[:width].tolist())
        assert not torch.equal(before, after)


def test_a_percentile_is_that_of_the_neurons():
    c = ragged()
    flat = in_one_row(c)
    found = select_fraction(c.cosine, c.before.mean.abs(), beta=1, trim_percentile=30, here=HERE)
    plain = select_fraction(flat.cosine, flat.before.mean.abs(), beta=1, trim_percentile=30)
    assert found.sizes == plain.sizes


def test_saved_and_loaded(tmp_path):
    c = ragged()
    c.save(tmp_path / "change")
    again = Contributions.load(tmp_path / "change")
    assert torch.equal(again.here, HERE)
    assert torch.equal(again.total, c.total)


def test_the_browser_marks_what_is_no_neuron_and_counts_the_rest():
    value = NeuronBrowser.of(ragged(), model="base", tuned="tuned", direction="probe")
    assert value.neurons == sum(WIDTHS)
    assert not value.without_group
    html = browser_html(value)
    assert f"{sum(WIDTHS)} neurons in 3 blocks" in html
    assert f"per cent of {sum(WIDTHS)} neurons write less" in html
    flags = packed_parts(value, ShownText())["columns"]["flags"]
    codes = torch.tensor(list(base64.b64decode(flags["data"])))
    assert ((codes == ABSENT).reshape(HERE.shape) == ~HERE).all()
