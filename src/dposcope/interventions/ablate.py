"""Ablate a direction from the outputs of attention and MLP: y − w(y·u)u.

Not in the paper. It is a common edit without training (Arditi et al. 2024 use w = 1). It is linear in y, so it folds
into the output projections.
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dposcope.data.given.numbers import number
from dposcope.data.short import short_repr
from dposcope.directions.direction import Direction, as_direction, vector_of
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import blocks_given, check_lm
from dposcope.model.frames import Frame
from dposcope.model.hooks import Applied, Change, Site, attention_sites, hooked, mlp_sites
from dposcope.model.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class Ablation:
    """Removes a share of the component along one direction from outputs of projections, at every position.

    The output of a projection includes its bias.
    """

    direction: Tensor
    """u, `[d]`; normalised here, stored as float32 on the CPU."""
    weight: float = 1.0
    """w, the removed share: 1 removes the component, above 1 reverses it."""
    blocks: tuple[int, ...] | None = None
    """Which blocks; None means all."""
    mlp: bool = True
    """Whether it acts on MLP output projections."""
    attention: bool = True
    """Whether it acts on attention output projections."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Normalise the direction; check all values."""
        unit = as_direction(self.direction).unit
        if self.blocks is not None:
            object.__setattr__(self, "blocks", tuple(sorted(set(blocks_given("blocks", self.blocks)))))
        object.__setattr__(self, "weight", number("weight", self.weight))
        if not math.isfinite(self.weight):
            raise DposcopeError(f"an ablation's weight is {self.weight}; give a finite number, such as 1")
        object.__setattr__(self, "direction", unit.to(torch.float32))

    def strength(self, factor: float) -> "Ablation":
        """The same with weight factor·w."""
        return replace(self, weight=number("strength", factor) * self.weight)

    def of_blocks(self, lm: LanguageModel) -> list[int]:
        """The blocks of `lm` that it acts on.

        Raises:
            DposcopeError: the direction does not fit the model, or a block is not there.
        """
        check_lm(lm)
        if self.direction.shape != (lm.d_model,):
            raise DposcopeError(
                f"the direction has shape {list(self.direction.shape)}, the model's residual stream [{lm.d_model}]; "
                "give an edit that was made for this model"
            )
        blocks = range(lm.n_blocks) if self.blocks is None else self.blocks
        missing = [block for block in blocks if not 0 <= block < lm.n_blocks]
        if missing:
            raise DposcopeError(f"no block {missing[0]} in a model of {lm.n_blocks} blocks")
        return list(blocks) if self.weight != 0 else []

    def changes(self, lm: LanguageModel) -> list[tuple[Site, Change]]:
        """Its hooks."""
        blocks = self.of_blocks(lm)
        units = {device: self.direction.to(device) for device in lm.devices}

        def change(written: Tensor, _frame: Frame) -> Tensor:
            u = units[written.device]
            share = self.weight * (written.float() @ u)
            return (written - share.unsqueeze(-1) * u).to(written.dtype)

        sites = [site for block in blocks for site in attention_sites(lm, block)] if self.attention else []
        sites += [site for block in blocks for site in mlp_sites(lm, block)] if self.mlp else []
        return [(site, change) for site in sites]

    def on(self, lm: LanguageModel) -> AbstractContextManager[Applied]:
        """Apply inside a context; the model itself stays as it is."""
        return hooked(lm, self.changes(lm))


def ablate(
    direction: Direction | Tensor,
    *,
    weight: float = 1.0,
    blocks: tuple[int, ...] | None = None,
    mlp: bool = True,
    attention: bool = True,
) -> Ablation:
    """An `Ablation` of a direction, or of a vector `[d]`, at weight w in all blocks or some."""
    return Ablation(vector_of(direction), weight, blocks, mlp, attention)
