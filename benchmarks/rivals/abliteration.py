"""Abliteration: W' = W − w u (uᵀ W) for the output projections of attention and MLP, w by a kernel over blocks.

Arditi et al. 2024 take one direction out of every block at w = 1. Weidmann's heretic (2025) gives each component a
triangular kernel: `max_weight` at `max_weight_position`, falling to `min_weight` at `min_weight_distance` from it and
0 beyond; and takes one global direction, that of a block between 0.4 and 0.9 of the depth, or each block its own.
Its directions come from the last token of prompts; here they are differences of means over sentences of two classes,
and the direction of this project's own edits, that of the last block, is a further line.
"""

from dataclasses import dataclass

from benchmarks.rivals.features import BlockFeatures
from benchmarks.rivals.lines import Line
from benchmarks.rivals.replaced import Folded
from torch import Tensor

from dposcope.directions.direction import Direction
from dposcope.interventions.ablate import Ablation
from dposcope.interventions.edit import Edit

_GLOBAL = 0.65
"""Depth of the block whose direction is the global one: the middle of heretic's range."""
_MLP_SHARE = 0.5
"""Of attention's weight, for the MLP under heretic's kernel: its own searches end lower there, as MLPs mind more."""


@dataclass(frozen=True)
class Kernel:
    """Weights over blocks 0 … L−1, positions as shares of L−1."""

    position: float
    """Of the largest weight, 1."""
    minimum: float
    """Weight at `distance`, as a share of the largest."""
    distance: float
    """Beyond it the weight is 0."""

    def weight(self, block: int, blocks: int) -> float:
        """Of one block."""
        last = max(blocks - 1, 1)
        away = abs(block - self.position * last)
        reach = max(self.distance * last, 1.0)
        return 0.0 if away > reach else 1.0 + away / reach * (self.minimum - 1.0)


FLAT = Kernel(0.5, 1.0, 1.0)
"""Every block alike, as Arditi et al."""
LATE = Kernel(0.8, 0.3, 0.6)
"""The middle of heretic's ranges: peak at 0.8 of the depth, reaching back to 0.2."""


def abliteration(directions: list[Tensor], kernel: Kernel, strength: float, *, mlp_share: float) -> Edit:
    """Attention loses `strength` × kernel of its block's direction, the MLP `mlp_share` of that.

    Args:
        directions: u of each block, L times `[d]`.
        kernel: over blocks.
        strength: the largest weight, that of attention at the kernel's position.
        mlp_share: the MLP's weight over attention's.
    """
    parts: list[Ablation] = []
    for block, direction in enumerate(directions):
        weight = strength * kernel.weight(block, len(directions))
        if weight != 0:
            parts.append(Ablation(direction, weight, (block,), mlp=False))
            parts.append(Ablation(direction, mlp_share * weight, (block,), attention=False))
    return Edit.of(*parts)


def abliterations(features: BlockFeatures, direction: Direction | None = None) -> tuple[Line, ...]:
    """Global and per-layer directions, flat and heretic's kernel: four lines; the given direction, flat: a fifth."""
    blocks = len(features.norms)
    own = [features.difference(block) for block in range(blocks)]
    scopes = {"global": [own[round(_GLOBAL * (blocks - 1))]] * blocks, "per layer": own}
    kernels = {"flat": (FLAT, 1.0), "late": (LATE, _MLP_SHARE)}

    def line(scope: str, shape: str) -> Line:
        kernel, share = kernels[shape]
        directions = scopes[scope]
        return Line(
            f"{scope}, {shape}",
            lambda w: Folded(abliteration(directions, kernel, w, mlp_share=share)),
            symbol="w",
            start=0.5,
            most=16.0,
        )

    shapes = [(scope, shape) for scope in scopes for shape in kernels]
    if direction is not None:
        scopes["last block's"] = [direction.vector] * blocks
        shapes.append(("last block's", "flat"))
    return tuple(line(scope, shape) for scope, shape in shapes)
