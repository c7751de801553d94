"""Sums over tokens of what the neurons of a mixture of experts write."""

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from dposcope.model.mixtures.routing import Routing
from dposcope.neurons.mixtures.means import RoutedMeans

ALL: Final = slice(None)
"""Columns."""


class RoutedSums:
    """Sums that become `RoutedMeans`; row 0 is of all tokens, row 1 + k of fold k."""

    def __init__(self, n_blocks: int, d_mlp: int, *, folds: int, experts: int) -> None:
        self._experts, self._width = experts, d_mlp // experts
        self._counts, self._sum, self._squares = (
            [torch.zeros(1 + folds, columns, dtype=torch.float64) for _ in range(n_blocks)]
            for columns in (experts, d_mlp, d_mlp)
        )

    def update(self, block: int, rows: Tensor, routing: Routing, fold_of: Tensor | None, columns: slice = ALL) -> None:
        """Add activations `[n, columns]`, float64, 0 where a token was not sent; see `ActivationAccumulator.update`."""
        # The last expert of a part may have fewer neurons than others.
        written = rows * routing.weights.double().repeat_interleave(self._width, 1)[:, : rows.shape[1]]
        first = (columns.start or 0) // self._width
        experts = slice(first, first + routing.sent.shape[1])
        for sums, where, added in (
            (self._counts, experts, routing.sent.double()),
            (self._sum, columns, written),
            (self._squares, columns, written.square()),
        ):
            sums[block] = add_rows(sums[block], where, fold_of, added)

    def __getstate__(self) -> dict[str, Any]:
        """See `ActivationAccumulator`."""
        sums = {name: [total.cpu() for total in vars(self)[name]] for name in ("_counts", "_sum", "_squares")}
        return vars(self) | sums

    def value(self, row: int, tokens: int) -> RoutedMeans:
        """The moments of a row, which has so many tokens."""
        counts, total, squares = (
            torch.stack([of_block[row].cpu() for of_block in sums]) for sums in (self._counts, self._sum, self._squares)
        )
        by_neuron = counts.long().repeat_interleave(self._width, 1)
        return RoutedMeans(self._experts, by_neuron, total / tokens, squares / tokens)


def add_rows(sums: Tensor, columns: slice, fold_of: Tensor | None, added: Tensor) -> Tensor:
    """Sums `[1 + K, …]` with rows `added`, `[n, columns]`, in row 0 and in that of each one's fold; where `added` is.

    Args:
        sums: changed in place where it is on the device of `added`.
        columns: of the sums.
        fold_of: the fold of each row, `[n]`; None: row 0 only.
        added: `[n, columns]`.
    """
    total = sums.to(added.device)
    total[0, columns] += added.sum(0)
    if fold_of is not None:
        _add_by_fold(total[1:, columns], fold_of, added)
    return total


def _add_by_fold(sums: Tensor, fold_of: Tensor, added: Tensor) -> None:
    """Add each row of `added`, `[n, …]`, to the row of `sums`, `[K, …]`, of its fold, `[n]`."""
    if sums.device.type == "cpu":
        sums.index_add_(0, fold_of, added)
    else:
        # A matrix product is deterministic; scattered additions on a GPU are not.
        sums += one_hot(fold_of, len(sums)).T.double() @ added
