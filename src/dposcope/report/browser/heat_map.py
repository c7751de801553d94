"""Heat map of the change: summed contributions by block, group and effect (paper Figures 1, 5 and 8)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dposcope.evaluation.numbers import fact
from dposcope.report.browser.neurons import GROUPS, NeuronBrowser


@dataclass(frozen=True)
class MapCell:
    """Summed contribution of one block's neurons of one kind."""

    block: int
    value: float
    shade: str
    """Opacity, 0 … 1: |sum| over the largest of the map."""
    kind: str
    """down: it reduces; up: it adds; nothing."""

    @property
    def signed(self) -> str:
        """The sum with its sign."""
        return f"+{fact(self.value)}" if self.value > 0 else fact(self.value)


@dataclass(frozen=True)
class MapRow:
    """One kind of neurons in every block."""

    label: str
    group: int | None
    """Index into `GROUPS`; None: all neurons."""
    effect: str
    """down, up, or nothing for both."""
    cells: list[MapCell]

    @property
    def strongest(self) -> MapCell:
        """The cell of the largest |sum|."""
        return max(self.cells, key=lambda cell: abs(cell.value))


@dataclass(frozen=True)
class HeatMap:
    """All rows; shades of all cells are on one scale."""

    rows: list[MapRow]
    label_every: int
    """The axis has a number at every so many blocks."""
    largest: str
    """|sum| of the strongest shade."""
    described: str
    """Its strongest cell, in words."""


def heat_map(value: NeuronBrowser) -> HeatMap:
    """Summed contribution of every block by group and effect (paper Figures 1, 5 and 8)."""
    blocks, _ = value.shape
    # A contribution of 0 does not change a sum, so its row does not matter.
    kinds = 2 * value.group.astype(np.int64) + (value.contribution < 0)
    place = kinds + 2 * len(GROUPS) * np.arange(blocks)[:, None]
    sums = np.bincount(
        place.ravel(), weights=value.contribution.astype(np.float64).ravel(), minlength=2 * len(GROUPS) * blocks
    ).reshape(blocks, 2 * len(GROUPS))
    net = sums.sum(axis=1)
    largest = max(float(np.abs(sums).max()), float(np.abs(net).max()))
    # Neurons of no group have cosine or mean 0; most models have none.
    first = 0 if (value.group == 0).any() else 1
    rows = [
        _map_row(f"{GROUPS[group]}{'↑' if increase else '↓'}", group, increase, sums[:, 2 * group + increase], largest)
        for increase in (0, 1)
        for group in range(first, len(GROUPS))
    ]
    rows.append(_map_row("net", None, None, net, largest))
    strongest = max(rows[:-1], key=lambda row: abs(row.strongest.value))
    return HeatMap(
        rows,
        label_every=max(1, math.ceil(blocks / 40)),
        largest=fact(largest),
        described=f"The strongest cell is {strongest.label} of block {strongest.strongest.block}, "
        f"{strongest.strongest.signed}",
    )


def _map_row(label: str, group: int | None, increase: int | None, sums: NDArray[Any], largest: float) -> MapRow:
    cells = [
        MapCell(
            block,
            float(total),
            f"{abs(total) / largest if largest else 0:.3f}",
            "down" if total > 0 else "up" if total < 0 else "",
        )
        for block, total in enumerate(sums.tolist())
    ]
    return MapRow(label, group, "" if increase is None else ("down", "up")[increase], cells)
