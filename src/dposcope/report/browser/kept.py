"""Which neurons a page holds where it has no room for all: those of largest |contribution|, and those it shows more of.

What needs all neurons, such as a rank, is computed here for the page's script.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dposcope.report.browser.neurons import GROUPS, NeuronBrowser

_EFFECTS = 3
"""None, ↓ and ↑, with these codes."""


@dataclass(frozen=True, eq=False)
class Kept:
    """n of all neurons."""

    neurons: NDArray[np.int64]
    """`[n]`, each as block · M + index, ascending."""
    ranks: NDArray[np.int64]
    """`[n]`: place among all neurons by contribution, from 1; ties in the neurons' order."""
    peer_ranks: NDArray[np.int64]
    """`[n]`: place among all neurons of the same group and effect, the strongest first, from 1."""
    peers: list[int]
    """How many neurons there are of each kind: group code · 3 + effect, where 1 is ↓, 2 is ↑ and 0 neither."""
    total: int
    """How many there are in all."""

    def rows(self, neurons: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """The place of each of some neurons among those that are kept."""
        return np.searchsorted(self.neurons, neurons)


def kept(value: NeuronBrowser, most: int) -> Kept:
    """The neurons of largest |contribution|, and beside them all that have a lens or activations.

    Args:
        value: all neurons.
        most: how many of largest |contribution|; ties in the neurons' order.
    """
    # As the page's script has it: in 32 bits, where −0 is 0.
    contribution = value.contribution.astype(np.float32).ravel() + np.float32(0)
    here = np.arange(contribution.size) if value.here is None else np.flatnonzero(value.here)
    sizes = np.abs(contribution[here])
    strongest = here[np.argsort(-sizes, kind="stable")[:most]]
    shown = np.array([*value.lenses, *value.activations.neurons.tolist()], np.int64)
    neurons = np.union1d(strongest, shown)

    order = here[np.argsort(-contribution[here], kind="stable")]
    ranks = np.zeros(contribution.size, np.int64)
    ranks[order] = np.arange(1, len(order) + 1)

    effects = np.where(contribution > 0, 1, np.where(contribution < 0, 2, 0))
    kinds = (value.group.astype(np.int64).ravel() * _EFFECTS + effects)[order]
    peers = np.bincount(kinds, minlength=len(GROUPS) * _EFFECTS)
    by_kind = np.argsort(kinds, kind="stable")
    ahead = np.arange(1, len(order) + 1) - (np.cumsum(peers) - peers)[kinds[by_kind]]
    peer_ranks = np.zeros(contribution.size, np.int64)
    peer_ranks[order[by_kind]] = ahead
    # Of those that increase, the strongest is the lowest.
    increases = effects == _EFFECTS - 1
    own = peers[value.group.ravel()[increases].astype(np.int64) * _EFFECTS + _EFFECTS - 1]
    peer_ranks[increases] = own - peer_ranks[increases] + 1
    return Kept(neurons, ranks[neurons], peer_ranks[neurons], peers.tolist(), value.neurons)
