import numpy as np
import pytest

from dposcope.report.browser.heat_map import heat_map
from dposcope.report.browser.neurons import GROUPS
from helpers.browsers import browser


def sums(value, block, group, effect) -> float:
    """Σ Δ_i, neuron by neuron."""
    total = 0.0
    for index in range(value.shape[1]):
        contribution = float(value.contribution[block, index])
        moved = {"down": contribution > 0, "up": contribution < 0, "": True}[effect]
        if moved and (group is None or value.group[block, index] == group):
            total += contribution
    return total


@pytest.mark.parametrize("shape", [(1, 7), (5, 40)])
def test_cells_are_the_sums_of_their_neurons(shape):
    value = browser(*shape)
    made = heat_map(value)
    names = [f"{group}{arrow}" for arrow in "↓↑" for group in ("TP", "TN", "AP", "AN")]
    assert [row.label for row in made.rows] == [*names, "net"]
    sizes = [abs(cell.value) for row in made.rows for cell in row.cells]
    usual = float(np.quantile(sizes, 0.95))
    largest = usual if max(sizes) > 2 * usual else max(sizes)
    for row in made.rows:
        assert [cell.block for cell in row.cells] == list(range(shape[0]))
        assert row.group is None or row.label.startswith(GROUPS[row.group])
        for cell in row.cells:
            assert cell.value == pytest.approx(sums(value, cell.block, row.group, row.effect), abs=1e-12)
            assert float(cell.shade) == pytest.approx(min(1, abs(cell.value) / largest), abs=5.1e-4)
            assert cell.kind == ("down" if cell.value > 0 else "up" if cell.value < 0 else "")


def test_the_strongest_cell_is_named():
    contribution = np.zeros((3, 4))
    contribution[1, 2], contribution[2, 0] = -2.5, 1.0
    group = np.full((3, 4), GROUPS.index("AN"), np.uint8)
    made = heat_map(browser(3, 4, contribution=contribution, group=group, n_lenses=0, n_opened=1))
    assert made.described == "The strongest cell is AN↑ of block 1, −2.5"
    assert made.largest == "2.5"
    assert made.rows[3].cells[2].signed == "+1"


def test_neurons_without_a_group_have_rows_where_there_are_some():
    group = np.full((2, 3), GROUPS.index("TP"), np.uint8)
    group[1, 1] = 0
    labels = [row.label for row in heat_map(browser(2, 3, group=group, n_lenses=1, n_opened=1)).rows]
    assert labels[0] == "none↓"
    assert len(labels) == 11


def test_nothing_moved():
    made = heat_map(browser(2, 3, contribution=np.zeros((2, 3)), n_lenses=0, n_opened=1))
    assert {cell.shade for row in made.rows for cell in row.cells} == {"0.000"}
    assert {cell.kind for row in made.rows for cell in row.cells} == {""}
    assert made.described == "No neuron has a contribution"


@pytest.mark.parametrize(("blocks", "every"), [(1, 1), (40, 1), (41, 2), (126, 4)])
def test_an_axis_of_many_blocks_names_some(blocks, every):
    assert heat_map(browser(blocks, 2, n_lenses=0, n_opened=1)).label_every == every


def test_a_block_that_towers_over_the_rest_leaves_the_others_visible():
    contribution = np.tile(np.array([1.0, 2.0, -1.0, -2.0]), (40, 1))
    contribution[0] *= 100
    group = np.tile(np.array([1, 2, 1, 2], np.uint8), (40, 1))
    made = heat_map(browser(40, 4, contribution=contribution, group=group, n_lenses=0, n_opened=1))
    first, second = made.rows[0].cells[:2]
    assert (first.shade, first.beyond) == ("1.000", True)
    assert float(second.shade) >= 0.5
    assert made.beyond == sum(cell.beyond for row in made.rows for cell in row.cells) == 4


def test_bars_of_the_net_reach_as_far_as_the_largest():
    contribution = np.array([[1.0, 0.0], [-4.0, 0.0], [2.0, 0.0]])
    net = heat_map(browser(3, 2, contribution=contribution, n_lenses=0, n_opened=1)).rows[-1].cells
    assert [(cell.bar_from, cell.bar_width, cell.short) for cell in net] == [
        ("0.0", "12.5", "+1"),
        ("-50.0", "50.0", "−4"),
        ("0.0", "25.0", "+2"),
    ]
