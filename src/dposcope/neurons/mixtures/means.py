"""What mean activations of a mixture of experts have beside those of other models.

A token is sent to a few experts of a block, each with a weight r. A neuron of another expert writes nothing for it, one
of these experts writes r m v.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import torch
from torch import Tensor

from dposcope.data.short import short_repr


@dataclass(frozen=True, eq=False)
class RoutedMeans:
    """Counts of tokens, and moments of r m over all tokens, 0 for a token that was not sent to the neuron's expert."""

    experts: int
    """E, per block."""
    counts: Tensor
    """Tokens that were sent to the neuron's expert, `[L, d_mlp]`, int64."""
    written: Tensor
    """E[r m], `[L, d_mlp]`, float64."""
    written_second_moment: Tensor
    """E[(r m)²], `[L, d_mlp]`, float64."""

    __repr__ = short_repr

    def tensors(self) -> dict[str, Tensor]:
        """All that is stored, by the names that files use."""
        return {name: getattr(self, name) for name in _TABLES}

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], experts: int | None) -> "RoutedMeans | None":
        """From what `tensors` gave; None where there is no number of experts."""
        return None if experts is None else cls(experts, *(tensors[name] for name in _TABLES))

    def columns(self) -> dict[str, pl.Series]:
        """Expert, count and written of every neuron, block by block."""
        blocks, width = self.counts.shape
        expert = torch.arange(width) // (width // self.experts)
        return {
            "expert": pl.Series(expert.repeat(blocks).numpy()),
            "count": pl.Series(self.counts.flatten().numpy()),
            "written": pl.Series(self.written.flatten().numpy()),
        }


_TABLES = ("counts", "written", "written_second_moment")


def joined_routed(parts: Sequence[RoutedMeans], shares: Sequence[float]) -> RoutedMeans:
    """Over the tokens of all parts; `shares` are the parts of all tokens that each has."""
    counts = torch.stack([part.counts for part in parts]).sum(0)
    written, second = (
        torch.stack([share * part.tensors()[name] for part, share in zip(parts, shares, strict=True)]).sum(0)
        for name in _TABLES[1:]
    )
    return RoutedMeans(parts[0].experts, counts, written, second)
