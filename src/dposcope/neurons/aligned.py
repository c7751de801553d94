"""The value vectors of highest cosine with a direction (paper 4; Lee et al. 2024)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dposcope.data.given.numbers import whole
from dposcope.data.short import short_repr
from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.groups import cosines
from dposcope.neurons.sets import NeuronSet


@dataclass(frozen=True, eq=False)
class AlignedVectors:
    """The n value vectors of highest cosine with a direction, the highest first; on the CPU."""

    block: Tensor
    """`[n]`, int64."""
    index: Tensor
    """Within the block, `[n]`, int64."""
    cosine: Tensor
    """cos(v_i, W), `[n]`, float64, falling."""
    vectors: Tensor
    """v_i, `[n, d]`, float64."""
    shape: tuple[int, int]
    """(L, d_mlp) of the model."""
    names: tuple[str, ...]
    """See `LanguageModel.neuron_name`."""

    __repr__ = short_repr

    def __len__(self) -> int:
        """N."""
        return len(self.cosine)

    def chosen(self, which: Tensor) -> NeuronSet:
        """The subset given by the mask `which`, `[n]`, bool."""
        mask = torch.zeros(self.shape, dtype=torch.bool)
        mask[self.block[which], self.index[which]] = True
        return NeuronSet(mask)


@torch.no_grad()
def most_aligned(lm: LanguageModel, direction: Direction | Tensor, n: int) -> AlignedVectors:
    """The n neurons of highest cos(v_i, W); ties go to the lower block, then index.

    Args:
        lm: the model.
        direction: W, or a vector `[d]`; −W gives the anti-toxic ones.
        n: how many (paper: 256, and 128 as in Lee et al. 2024).

    Raises:
        DposcopeError: W does not fit, or the model has fewer neurons than n.
    """
    check_lm(lm)
    if not 1 <= whole("n", n) <= lm.n_neurons:
        raise DposcopeError(f"cannot take the top {n:,} of {lm.n_neurons:,} neurons; ask for at least 1, at most all")
    table = cosines(lm, direction)
    flat = table.flatten()
    ranked = flat if lm.here is None else flat.where(lm.here.flatten(), -torch.inf)
    chosen = ranked.argsort(descending=True, stable=True)[:n]
    block, index = chosen // lm.d_mlp, chosen % lm.d_mlp
    vectors = torch.empty(n, lm.d_model, dtype=torch.float64)
    for number in block.unique().tolist():
        here = block == number
        rows = lm.value_vectors(number)
        vectors[here] = rows[index[here].to(rows.device)].double().cpu()
    names = tuple(lm.neuron_name(*place) for place in zip(block.tolist(), index.tolist(), strict=True))
    return AlignedVectors(block, index, flat[chosen], vectors, (lm.n_blocks, lm.d_mlp), names)
