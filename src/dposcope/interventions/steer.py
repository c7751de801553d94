"""Subtract a vector from the residual stream: x − αW (paper 3.2, appendix D)."""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dposcope.data.given.numbers import number, whole
from dposcope.data.short import short_repr
from dposcope.directions.direction import Direction, as_direction, vector_of
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm
from dposcope.model.frames import Frame, Positions
from dposcope.model.hooks import Applied, Change, Site, hooked, mlp_sites, residual_site
from dposcope.model.language_model import LanguageModel
from dposcope.protocols import check_choice


@dataclass(frozen=True, eq=False)
class Steer:
    """Subtract αW from the residual stream at the end of one block.

    W is not normalised: the paper's α (30, 2, 3, 5) are for its own probes. For an α that is comparable between
    models, give W = unit direction × mean norm of the stream (`direction.about["residual_norm"]`).
    """

    vector: Direction | Tensor
    """W, or a vector `[d]`, pointing towards toxicity."""
    alpha: float
    """α; negative adds."""
    block: int = -1
    """The block at whose end it acts; −1 is the last (paper)."""
    site: Literal["residual", "mlp"] = "residual"
    """`residual`: the stream itself. `mlp`: the MLP's output, before Gemma's post-norm, as in the published code."""
    positions: Positions = Positions.ALL

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Check all values; copy a vector."""
        check_choice("site", self.site, ("residual", "mlp"))
        object.__setattr__(self, "positions", Positions(self.positions))
        object.__setattr__(self, "alpha", number("alpha", self.alpha))
        object.__setattr__(self, "block", whole("block", self.block))
        if not math.isfinite(self.alpha):
            raise DposcopeError(f"alpha {self.alpha} is no finite number; give one, such as 2")
        as_direction(self.vector)
        if isinstance(self.vector, Tensor):
            object.__setattr__(self, "vector", self.vector.detach().clone())

    def changes(self, lm: LanguageModel) -> list[tuple[Site, Change]]:
        """Its hook."""
        check_lm(lm)
        vector = vector_of(self.vector, lm)
        if not -lm.n_blocks <= self.block < lm.n_blocks:
            raise DposcopeError(f"block {self.block} is outside a model of {lm.n_blocks} blocks")
        block = self.block % lm.n_blocks
        shift = (self.alpha * vector).to(lm.device_of_block(block), torch.float32)

        def change(stream: Tensor, _frame: Frame) -> Tensor:
            return (stream - shift.to(stream.device)).to(stream.dtype)

        sites = [residual_site(lm, block)] if self.site == "residual" else mlp_sites(lm, block)
        if not sites:
            raise DposcopeError(f"block {block} of {lm.name} has no MLP to steer; choose another, or site residual")
        return [(sites[-1], change)]

    def on(self, lm: LanguageModel) -> AbstractContextManager[Applied]:
        """Apply inside a context; the model itself stays as it is."""
        return hooked(lm, self.changes(lm), positions=self.positions)
