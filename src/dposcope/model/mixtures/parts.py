"""Where the neurons of a block are: in one projection, or in several where experts are routed and shared.

Tables of neurons are `[L, d_mlp]`, for every model. Columns of a block are its routed experts one after the other, then
its shared ones. Where blocks differ, a block has the first columns and the others are absent: values there are 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.model.layout.blocks import after_experts, shared_experts
from dposcope.model.layout.projections import projection_width, value_vectors
from dposcope.model.layout.table import Layout
from dposcope.model.mixtures.experts import Experts, ExpertSizes
from dposcope.model.mixtures.shared import Shared


@dataclass(frozen=True, eq=False)
class Part:
    """Neurons of a block that one projection reads."""

    projection: nn.Module
    """A `Linear`, `Conv1D`, a quantised layer, or the routed experts of a block."""
    start: int
    """The first column of tables `[L, d_mlp]`."""
    width: int
    shared: Shared | None = None
    """What the projection belongs to, if it is that of shared experts."""
    after: nn.Module | None = None
    """A projection of what the routed experts write together into the stream; None: they write it themselves."""

    __repr__ = short_repr

    @property
    def value_vectors(self) -> Tensor:
        """v of each neuron, `[width, d]`: what it writes into the stream, for an activation of 1."""
        vectors = value_vectors(self.projection)
        if self.after is None:
            return vectors
        wide = torch.promote_types(vectors.dtype, torch.float32)
        return (vectors.to(wide) @ value_vectors(self.after).to(wide)).to(vectors.dtype)

    @property
    def outputs(self) -> int:
        """d."""
        return projection_width(self.after or self.projection).outputs

    @property
    def columns(self) -> slice:
        """Of tables `[L, d_mlp]`."""
        return slice(self.start, self.start + self.width)


@dataclass(frozen=True, eq=False)
class Columns:
    """The neurons of all blocks as columns of tables `[L, d_mlp]`."""

    parts: Sequence[tuple[Part, ...]]
    """Of each block."""
    experts: ExpertSizes | None
    """Of a mixture."""

    __repr__ = short_repr

    @classmethod
    def of(cls, blocks: Sequence[nn.Module], projections: Sequence[nn.Module | None], layout: Layout) -> "Columns":
        """Find the parts of each block.

        Args:
            blocks: of the model.
            projections: the MLP output projection of each block, or its routed experts; None where it has no MLP.
            layout: of the model.

        Raises:
            DposcopeError: routed experts of blocks differ in size, or something unknown writes beside them.
        """
        found = [_parts(block, one, layout) for block, one in zip(blocks, projections, strict=True)]
        experts = [Experts.of(one) for one in projections if one is not None]
        sizes = {one.sizes for one in experts if one is not None}
        if len(sizes) > 1:
            raise DposcopeError("blocks have experts of different numbers or widths, which is not supported")
        if not sizes:
            return cls(found, None)
        (routed,) = sizes
        widest = max(_width(parts) for parts in found)
        # A last expert that is not whole is an absent part of a table.
        return cls(found, ExpertSizes(-(-widest // routed.width), routed.width, routed.count))

    @property
    def widths(self) -> list[int]:
        """Neurons of each block, L of them."""
        return [_width(parts) for parts in self.parts]

    @property
    def d_mlp(self) -> int:
        """Columns of a table: neurons of the widest block, in a mixture a whole number of experts."""
        return max(self.widths) if self.experts is None else self.experts.count * self.experts.width

    @property
    def outputs(self) -> int:
        """d, what every neuron writes."""
        return next(parts[0].outputs for parts in self.parts if parts)

    def told(self) -> tuple[str, ...]:
        """What a reader of neurons' names should know, in sentences."""
        found: list[str] = []
        if not all(self.parts):
            few = ", ".join(str(block) for block, parts in enumerate(self.parts) if parts)
            found.append(f"Only blocks {few} have an MLP.")
        if self.experts is None:
            return (*found, *(["Blocks differ in width."] if len({*self.widths} - {0}) > 1 else []))
        routed, shared = self.experts.routed, [len(parts) > 1 for parts in self.parts]
        dense = [block for block, parts in enumerate(self.parts) if parts and Experts.of(parts[0].projection) is None]
        if any(shared):
            found.append(f"Experts from number {routed:,} on are shared: every token runs through them.")
        if dense:
            which = ", ".join(map(str, dense))
            found.append(
                f"Dense blocks ({which}) count as experts of {self.experts.width:,} neurons that get all tokens."
            )
        return tuple(found)

    @cached_property
    def here(self) -> Tensor | None:
        """Which columns of each block are neurons, `[L, d_mlp]`, bool, on the CPU; None where all are."""
        widths = torch.tensor(self.widths).unsqueeze(1)
        there = torch.arange(self.d_mlp) < widths
        return None if bool(there.all()) else there

    def value_vectors(self, block: int) -> Tensor:
        """Value vectors of a block, `[d_mlp, d]`; zeros where the block has no neuron."""
        vectors = [part.value_vectors for part in self.parts[block]]
        if not vectors:
            return self._no_vectors()
        absent = self.d_mlp - self.widths[block]
        if len(vectors) == 1 and not absent:
            return vectors[0]
        # Parts of a block may be of different types, as where routed experts alone are kept in bfloat16.
        zeros = vectors[0].new_zeros(absent, vectors[0].shape[1])
        return torch.cat([vectors[0], *(one.to(vectors[0]) for one in vectors[1:]), zeros])

    def _no_vectors(self) -> Tensor:
        """Of a block without an MLP, `[d_mlp, d]`: one row of zeros, seen d_mlp times."""
        projection = next(parts[0].projection for parts in self.parts if parts)
        weight = next(projection.parameters())
        dtype = weight.dtype if weight.is_floating_point() else torch.float32
        row = torch.zeros(self.outputs, dtype=dtype, device=weight.device)
        return row.expand(self.d_mlp, -1)


def _width(parts: Sequence[Part]) -> int:
    return parts[-1].columns.stop if parts else 0


def _parts(block: nn.Module, projection: nn.Module | None, layout: Layout) -> tuple[Part, ...]:
    if projection is None:
        return ()
    after = after_experts(block, layout)
    first = Part(projection, 0, projection_width(projection).inputs, after=after)
    if Experts.of(projection) is None:
        return (first,)
    shared = shared_experts(block, layout)
    if shared is None:
        return (first,)
    return first, Part(shared.out, first.width, projection_width(shared.out).inputs, shared)
