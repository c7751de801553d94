"""What is drawn is what the values say: read back from the axes."""

import matplotlib as mpl
import numpy as np
import pytest
import torch

from dposcope.evaluation.statistics.intervals import Share
from dposcope.jobs.explain.figures import (
    GROUP_COLOURS,
    GROUP_MARKERS,
    cumulative_curves,
    density_curve,
    group_layers,
    group_proportions,
    layer_balance,
    range_shifts,
    share_dots,
    toxic_activations,
)
from dposcope.neurons.groups import Group
from dposcope.neurons.ranks import CumulativeReduction, RankRange, cumulative_reduction, rank_range_shifts
from dposcope.neurons.shares import group_shares, layer_sums
from dposcope.neurons.shifts import shift_density, top_toxic
from dposcope.report.figures import COLOURS
from helpers.changes import family_change, random_change
from helpers.families import FAMILIES

CHANGE = random_change(3, (7, 60))


def lines(figure) -> dict[str, tuple[list[float], list[float]]]:
    """Label → points, of every labelled line."""
    return {
        line.get_label(): (np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist())
        for line in figure.axes[0].lines
        if not line.get_label().startswith("_")
    }


def legend(figure) -> set[str]:
    return {text.get_text() for text in figure.axes[0].get_legend().get_texts()}


def all_figures(change):
    layers = layer_sums(change)
    return {
        "balance": layer_balance(layers),
        "later": layer_balance(layers, first=1),
        "proportions": group_proportions(group_shares(change)),
        "cumulative": cumulative_curves(cumulative_reduction(change)),
        **{f"range{place}": range_shifts(one) for place, one in enumerate(rank_range_shifts(change).ranges)},
        "top": toxic_activations(top_toxic(change)),
        "density": density_curve(shift_density(change)),
        "layers": group_layers(layers),
    }


@pytest.mark.parametrize("first", [0, 2])
def test_balance_has_two_dots_and_a_bar_per_block(first):
    layers = layer_sums(CHANGE)
    figure = layer_balance(layers, first=first)
    blocks = list(range(first, 7))
    assert lines(figure) == {
        "reduced (↓)": (blocks, layers.reduction[first:].tolist()),
        "increased (↑)": (blocks, layers.increase[first:].tolist()),
    }
    bars = figure.axes[0].patches
    assert [bar.get_height() for bar in bars] == layers.net[first:].tolist()
    assert [bar.get_x() + bar.get_width() / 2 for bar in bars] == pytest.approx(blocks)
    assert legend(figure) == {"reduced (↓)", "increased (↑)", "net"}


def test_proportions_fill_a_bar_each_for_neurons_and_reduction():
    shares = group_shares(random_change(3, (7, 60), zeros=False))
    figure = group_proportions(shares)
    bars = figure.axes[0].patches
    expected = [[100 * share.of_moved for share in shares.groups[:4]]]
    expected += [[100 * share.of_contribution for share in shares.groups[:4]]]
    for place, widths in enumerate(expected):
        row = bars[4 * place : 4 * place + 4]
        assert [bar.get_width() for bar in row] == pytest.approx(widths)
        assert [bar.get_x() for bar in row] == pytest.approx([sum(widths[:k]) for k in range(4)])
        assert sum(widths) == pytest.approx(100)
        assert [mpl.colors.to_hex(bar.get_facecolor()) for bar in row] == list(GROUP_COLOURS.values())
    assert [text.get_text() for text in figure.axes[0].texts] == [
        f"{width:.0f} %" for widths in expected for width in widths if width > 6
    ]
    assert legend(figure) == {"TP↓", "TN↓", "AP↓", "AN↓"}


def test_cumulative_curves_are_shares_in_per_cent():
    found = cumulative_reduction(CHANGE)
    figure = cumulative_curves(found)
    drawn = lines(figure)
    assert list(drawn) == ["all", "TP↓", "TN↓", "AP↓", "AN↓"]
    for label, share in {"all": found.share, **{f"{group}↓": part for group, part in found.groups.items()}}.items():
        assert drawn[label][0] == found.ranks.tolist()
        assert drawn[label][1] == pytest.approx((100 * share).tolist())
    assert any(list(line.get_xdata()) == [found.paper_rank] * 2 for line in figure.axes[0].lines)
    assert [text.get_text() for text in figure.axes[0].texts] == [f"the paper's range: {found.paper_rank:,}"]


def test_every_group_of_the_cumulative_curves_has_its_marker_at_a_place_of_its_own():
    drawn = {line.get_label(): line for line in cumulative_curves(cumulative_reduction(CHANGE)).axes[0].lines}
    places = [drawn[f"{group}↓"].get_markevery() for group in Group]
    assert len({place for one in places for place in one}) == 4
    assert [drawn[f"{group}↓"].get_marker() for group in Group] == list(GROUP_MARKERS.values())


def test_without_a_reducing_neuron_the_curves_are_empty():
    none = torch.zeros(0, dtype=torch.float64)
    figure = cumulative_curves(CumulativeReduction(none.long(), none, dict.fromkeys(Group, none), 0))
    assert all(points == ([], []) for points in lines(figure).values())
    figure.canvas.draw()


def test_range_shifts_stand_at_their_ranks():
    one = rank_range_shifts(CHANGE, [RankRange(20, 120, CHANGE.cosine.numel())]).ranges[0]
    figure = range_shifts(one)
    drawn = lines(figure)
    for group in Group:
        members = [place for place in range(len(one.shift)) if one.groups[group][place]]
        assert len(members) > 5
        assert drawn[f"{group}↓"] == ([20 + place for place in members], [float(one.shift[place]) for place in members])
    assert figure.axes[0].get_xlim() == (19.5, 119.5)
    low, high = figure.axes[0].get_ylim()
    assert low < float(one.shift.min()) <= float(one.shift.max()) < high


def test_toxic_activations_stand_before_and_after():
    top = top_toxic(CHANGE, 50)
    figure = toxic_activations(top)
    ranks = list(range(1, 51))
    assert lines(figure) == {"before": (ranks, top.before.tolist()), "after": (ranks, top.after.tolist())}
    (joined,) = figure.axes[0].collections
    ends = [sorted(y for _, y in segment) for segment in joined.get_segments()]
    assert ends == [sorted(pair) for pair in zip(top.before.tolist(), top.after.tolist(), strict=True)]


def test_density_has_its_bins_mean_and_what_is_cut_off():
    density = shift_density(CHANGE, bins=12, cut=0.1)
    figure = density_curve(density)
    for stairs in figure.axes[0].patches:
        values, edges, _ = stairs.get_data()
        assert values.tolist() == density.density.tolist()
        assert edges.tolist() == density.edges.tolist()
    assert list(figure.axes[0].lines[0].get_xdata()) == [density.mean] * 2
    assert density.below + density.above > 0
    assert f"{density.below + density.above} neurons outside" in figure.axes[0].get_title(loc="left")


def test_group_layers_have_a_line_per_group():
    layers = layer_sums(CHANGE)
    figure = group_layers(layers)
    assert lines(figure) == {f"{group}↓": (list(range(7)), layers.groups[group].tolist()) for group in Group}
    assert [line.get_color() for line in figure.axes[0].lines] == list(GROUP_COLOURS.values())


def test_share_dots_are_in_per_cent_with_their_intervals():
    rows = [("a", "patch", Share(0.12, 0.05, 0.2, 9)), ("b", "control", Share(-0.3, -0.5, 1.2, 9))]
    figure = share_dots(rows)
    drawn = [(list(line.get_xdata()), line.get_color()) for line in figure.axes[0].lines]
    assert (pytest.approx([5.0, 20.0]), COLOURS["edit"]) in drawn
    assert (pytest.approx([-50.0, 120.0]), COLOURS["control"]) in drawn
    assert ([100.0, 100.0]) in [points for points, _ in drawn]
    assert {"12", "−30", "a", "b"} == {text.get_text() for text in figure.axes[0].texts}
    assert figure.axes[0].get_xlim()[0] <= -50


def test_groups_differ_in_colour_and_in_marker():
    assert len(set(GROUP_COLOURS.values())) == len(set(GROUP_MARKERS.values())) == len(Group)
    light = [sum(channel * weight for channel, weight in zip(mpl.colors.to_rgb(colour), (0.3, 0.59, 0.11), strict=True))
             for colour in GROUP_COLOURS.values()]  # fmt: skip
    assert max(light) - min(light) > 0.15, "no difference is left in print"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_figure_of_every_family_can_be_drawn_with_whole_ticks(family):
    before = dict(mpl.rcParams)
    for name, figure in all_figures(family_change(family)).items():
        figure.canvas.draw()
        if name not in ("proportions", "density"):
            assert all(float(tick).is_integer() for tick in figure.axes[0].get_xticks()), name
    assert dict(mpl.rcParams) == before
