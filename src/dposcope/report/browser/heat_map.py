"""Heat map of the change: summed contributions by block, group and effect (paper Figures 1, 5 and 8)."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dposcope.evaluation.numbers import fact
from dposcope.report.browser.neurons import GROUPS, NeuronBrowser

_USUAL = 0.95
"""Share of the cells that stay below the strongest shade where the others tower over them."""
_TOWERING = 2.0
"""The largest cells tower if they are more than so many times as large as those."""

_NO_MLP = "no MLP"
"""In the place of a sum over no neuron."""


@dataclass(frozen=True)
class MapCell:
    """Summed contribution of one block's neurons of one kind."""

    block: int
    value: float
    shade: str
    """Opacity, 0 … 1: |sum| over that of the strongest shade."""
    kind: str
    """down: it reduces; up: it adds; nothing."""
    beyond: bool
    """Whether its |sum| is beyond the strongest shade."""
    bar: float
    """The sum over the largest |sum| of its row, −1 … 1."""
    neurons: bool = True
    """Whether the block has an MLP."""

    @property
    def signed(self) -> str:
        """The sum with its sign."""
        if not self.neurons:
            return _NO_MLP
        return f"+{fact(self.value)}" if self.value > 0 else fact(self.value)

    @property
    def short(self) -> str:
        """The sum with its sign and two significant digits."""
        if not self.neurons:
            return _NO_MLP
        text = f"{self.value:.2g}".replace("-", "−")
        return f"+{text}" if self.value > 0 else text

    @property
    def bar_from(self) -> str:
        """Where its bar begins, on an axis from −50 to 50."""
        return f"{min(0.0, 50 * self.bar):.1f}"

    @property
    def bar_width(self) -> str:
        """How long its bar is there."""
        return f"{abs(50 * self.bar):.1f}"


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
    beyond: int
    """How many cells are beyond it."""
    described: str
    """Its strongest cell, in words; where nothing moved, that."""


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
    # Neurons of no group have cosine or mean 0; most models have none.
    first = 0 if value.without_group else 1
    there = np.ones(blocks, np.bool_) if value.here is None else np.asarray(value.here.any(axis=1))
    scale = _scale(np.concatenate([np.abs(sums[:, 2 * first :]).ravel(), np.abs(net)]))
    rows = [
        _map_row(
            f"{GROUPS[group]}{'↑' if increase else '↓'}", group, increase, sums[:, 2 * group + increase], scale, there
        )
        for increase in (0, 1)
        for group in range(first, len(GROUPS))
    ]
    rows.append(_map_row("net", None, None, net, scale, there))
    strongest = max(rows[:-1], key=lambda row: abs(row.strongest.value))
    return HeatMap(
        rows,
        label_every=max(1, math.ceil(blocks / 40)),
        largest=fact(scale),
        beyond=sum(cell.beyond for row in rows for cell in row.cells),
        described=f"The strongest cell is {strongest.label} of block {strongest.strongest.block}, "
        f"{strongest.strongest.signed}"
        if strongest.strongest.value
        else "No neuron has a contribution",
    )


def _scale(sizes: NDArray[Any]) -> float:
    """|sum| of the strongest shade: the largest, unless a few cells tower over the rest and would leave it pale."""
    largest, usual = float(sizes.max()), float(np.quantile(sizes, _USUAL))
    return usual if usual and largest > _TOWERING * usual else largest


def _map_row(
    label: str,
    group: int | None,
    increase: int | None,
    sums: NDArray[Any],
    scale: float,
    there: NDArray[np.bool_],
) -> MapRow:
    own = float(np.abs(sums).max())
    cells = [
        MapCell(
            block,
            float(total),
            f"{min(1.0, abs(total) / scale) if scale else 0:.3f}",
            "down" if total > 0 else "up" if total < 0 else "",
            abs(total) > scale,
            total / own if own else 0.0,
            bool(there[block]),
        )
        for block, total in enumerate(sums.tolist())
    ]
    return MapRow(label, group, "" if increase is None else ("down", "up")[increase], cells)
