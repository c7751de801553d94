"""Tables of neurons: cells and numbers against loops over neurons."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import pearsonr

from dposcope.evaluation.numbers import fact, percent
from dposcope.jobs.explain.tables.neuron import (
    change_table,
    correlations_table,
    directions_table,
    groups_table,
    model_table,
    negative_table,
)
from dposcope.neurons.shares import group_shares
from dposcope.neurons.shifts import Correlation, Correlations, change_summary, correlations
from helpers.changes import MOVED, family_change, neurons_of, random_change
from helpers.families import CONFIGS, FAMILIES, GATED

CHANGES = [*FAMILIES, "random"]


def change_of(name):
    return random_change(4) if name == "random" else family_change(name)


def test_sizes_of_every_family(lm):
    table = model_table(lm)
    config = lm.model.config.to_dict()
    width = config.get("n_inner") or config.get("intermediate_size")
    depth, size = config.get("n_layer") or config["num_hidden_layers"], config.get("n_embd") or config["hidden_size"]
    gated = lm.name.removeprefix("tiny-") in GATED
    activation = {"gpt2": "gelu_new", "gemma2": "gelu_pytorch_tanh", "gemma3": "gelu_pytorch_tanh"}
    family = lm.name.removeprefix("tiny-")
    assert table.to_polars().rows() == [
        (lm.name, depth, size, width, activation.get(family, "silu"), gated, depth * width)
    ]
    assert table.rows[0][1:4] == (str(depth), str(size), str(width))
    assert table.rows[0][5:] == ("yes" if gated else "no", str(depth * width))
    assert len(CONFIGS) == 8


@pytest.mark.parametrize("name", CHANGES)
def test_groups_are_counted_and_added_up(name):
    change = change_of(name)
    neurons = neurons_of(change)
    table = groups_table("m", group_shares(change))
    *rows, reducing, increasing = table.rows
    assert [row[0] for row in rows] == MOVED
    frame = table.to_polars()
    for row, moved, stored in zip(rows, MOVED, frame.iter_rows(named=True), strict=True):
        mine = [neuron for neuron in neurons if neuron.moved == moved]
        same_way = [neuron for neuron in neurons if neuron.effect == moved[-1]]
        added, of = sum(neuron.delta for neuron in mine), sum(neuron.delta for neuron in same_way)
        certain = sum(neuron.certain for neuron in mine) / max(len(mine), 1)
        assert row == (
            moved,
            str(len(mine)),
            percent(len(mine) / len(neurons)),
            percent(len(mine) / max(len(same_way), 1)),
            fact(added),
            percent(added / of if of else 0.0),
            percent(certain),
        )
        assert stored["neurons"] == len(mine)
        assert stored["contribution"] == pytest.approx(added, abs=1e-12)
    for total, arrow in ((reducing, "↓"), (increasing, "↑")):
        same_way = [neuron for neuron in neurons if neuron.effect == arrow]
        assert total[:3] == (f"sum {arrow}", str(len(same_way)), percent(len(same_way) / len(neurons)))
        assert total[4] == fact(sum(neuron.delta for neuron in same_way))


def test_of_no_neuron_that_moved_there_is_no_share():
    found = random_change()
    shares = group_shares(replace(found, projection_after=found.projection_before, after=found.before))
    for total in groups_table("m", shares).rows[-2:]:
        assert (total[1], total[3], total[5]) == ("0", "–", "–")


@pytest.mark.parametrize("name", CHANGES)
def test_signs_of_activations_and_of_contributions(name):
    change = change_of(name)
    neurons = neurons_of(change)
    shares = group_shares(change)
    negative = sum(neuron.before < 0 for neuron in neurons) / len(neurons)
    reduce, increase = (sum(neuron.effect == arrow for neuron in neurons) / len(neurons) for arrow in "↓↑")
    table = negative_table("m", shares)
    assert table.rows == (("m", percent(negative, 2), percent(1 - negative, 2), str(len(neurons))),)
    assert table.to_polars().rows() == [("m", negative, 1 - negative, len(neurons), None, None)]
    table = directions_table("m", shares)
    assert table.rows == (("m", percent(reduce, 2), percent(increase, 2), str(len(neurons))),)
    assert table.to_polars().rows() == [("m", reduce, increase, len(neurons), *[None] * 4)]


@pytest.mark.parametrize("name", CHANGES)
def test_correlations_are_scipys(name):
    change = change_of(name)
    neurons = neurons_of(change)
    table = correlations_table("m", correlations(change))
    shift = [neuron.shift for neuron in neurons]
    sides = ([neuron.cosine for neuron in neurons], [neuron.before for neuron in neurons])
    for row, stored, side in zip(table.rows, table.to_polars().rows(), sides, strict=True):
        r, p = pearsonr(shift, side)
        assert stored[1:] == (pytest.approx(r), pytest.approx(p), len(neurons), None, None)
        assert row[1:] == (f"{r:.3f}".replace("-", "−"), "< 0.0001" if p < 1e-4 else f"{p:.4f}", str(len(neurons)))


def test_what_has_no_correlation_is_a_dash():
    none, strong = Correlation(None, None, 1234), Correlation(0.5, 1e-300, 1234)
    rows = correlations_table("m", Correlations(none, strong)).rows
    assert [row[1:] for row in rows] == [("–", "–", "1,234"), ("0.500", "< 0.0001", "1,234")]


@pytest.mark.parametrize("name", CHANGES)
def test_how_much_changed(name):
    change = change_of(name)
    neurons = neurons_of(change)
    vectors = change.vector_cosine.flatten().tolist()
    ratio = sum(abs(n.shift) for n in neurons) / sum(abs(n.before) for n in neurons)
    median = np.median([abs(n.shift) / abs(n.before) for n in neurons if n.before])
    table = change_table("m", change_summary(change))
    assert [row[1] for row in table.rows] == [
        f"{sum(vectors) / len(vectors):.5f}",
        f"{min(vectors):.5f}",
        f"{100 * ratio:.2f} %",
        f"{100 * median:.2f} %",
    ]
    assert table.to_polars()["vector_cosine_min"].item() == min(vectors)


def test_intervals_stand_in_brackets_and_beside_the_numbers():
    change = change_of("llama")
    shares, found = group_shares(change), correlations(change)
    intervals = {
        "reducing": (0.25, 0.75),
        "increasing": (0.2, 0.7),
        "negative": (0.125, 0.5),
        "r_cosine": (-0.5, 0.25),
        "share_of_neurons TP↓": (0.1, 0.2),
        "share_of_contribution AN↑": (0.3, 0.4),
        "shift_percent": (1.5, 90.0),
    }
    table = directions_table("m", shares, intervals)
    assert table.rows[0][1].endswith(" % (25.00–75.00)")
    assert table.rows[0][2].endswith(" % (20.00–70.00)")
    assert table.to_polars().rows()[0][4:] == (0.25, 0.75, 0.2, 0.7)
    assert "Noise moves shares of signs" in table.notes[-1]
    assert negative_table("m", shares, intervals).rows[0][1].endswith(" % (12.50–50.00)")
    rows = correlations_table("m", found, intervals).rows
    assert rows[0][1].endswith(" (−0.500 to 0.250)")
    assert "(" not in rows[1][1]
    groups = groups_table("m", shares, intervals)
    shown = {row[0]: row for row in groups.rows}
    assert shown["TP↓"][3].endswith(" % (10.0–20.0)")
    assert shown["AN↑"][5].endswith(" % (30.0–40.0)")
    assert shown["sum ↓"][2].endswith(" % (25.0–75.0)")
    assert shown["sum ↑"][2].endswith(" % (20.0–70.0)")
    frame = groups.to_polars()
    assert frame["of_moved_low"].to_list() == [0.1, *[None] * 7]
    assert frame["of_contribution_high"].to_list() == [*[None] * 7, 0.4]
    assert "% (1.50–90.00)" in change_table("m", change_summary(change), intervals).rows[2][1]


def test_no_interval_is_promised_where_there_is_none():
    assert not any("noise pulls" in note for note in directions_table("m", group_shares(change_of("llama"))).notes)
