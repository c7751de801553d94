"""Which part of a model is on which device, and how the parts are divided among devices.

A block is never divided. Blocks are in order, so the stream moves from one device to the next a few times in a pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from transformers import PreTrainedModel

from dposcope.data.short import short_repr
from dposcope.model.head.logits import final_norm, transform, unembedding
from dposcope.model.language_model import LanguageModel
from dposcope.model.layout.blocks import block_modules
from dposcope.model.layout.table import Layout

USABLE: Final = 0.9
"""Share of a device's free memory that weights may take; the rest is for activations, caches and logits."""
_HALVINGS: Final = 50
"""Bisection steps for the smallest share of the memory: finer than a byte."""


@dataclass(frozen=True)
class Placement:
    """Where the parts of a model are."""

    first: torch.device
    """Of the embedding, of an unembedding that is tied to it, and of whatever is neither a block nor at the end."""
    blocks: tuple[torch.device, ...]
    """Of each block, L of them."""
    last: torch.device
    """Of the final norm, of what stands behind it, and of an unembedding with a weight of its own."""

    __repr__ = short_repr

    @classmethod
    def of(cls, lm: LanguageModel) -> "Placement":
        """That of a model at hand."""
        return cls(lm.device, tuple(lm.device_of_block(block) for block in range(lm.n_blocks)), lm.device_of_norm)

    @property
    def spread(self) -> bool:
        """Whether it is more than one device."""
        return len({self.first, *self.blocks, self.last}) > 1

    def device_map(self, model: PreTrainedModel, layout: Layout) -> dict[str, torch.device]:
        """Module → device, as accelerate takes it: every weight of the model is in exactly one of these modules.

        Args:
            model: of as many blocks; it may be without weights.
            layout: where its parts are.
        """
        own: dict[nn.Module, torch.device] = dict(zip(block_modules(model, layout), self.blocks, strict=True))
        own |= dict.fromkeys(ends(model, layout), self.last)
        above = _above(model, own)
        found: dict[str, torch.device] = {}

        def walk(module: nn.Module, name: str) -> None:
            if module not in above:
                if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
                    found[name] = own.get(module, self.first)
                return
            for part, _ in module.named_parameters(recurse=False):
                found[f"{name}.{part}" if name else part] = self.first
            for part, child in module.named_children():
                walk(child, f"{name}.{part}" if name else part)

        walk(model, "")
        return found


def _above(model: nn.Module, own: Mapping[nn.Module, torch.device]) -> set[nn.Module]:
    """Modules that hold parts with a place of their own, so that they have none as a whole."""
    return {module for module in model.modules() if module not in own and any(one in own for one in module.modules())}


def ends(model: PreTrainedModel, layout: Layout) -> list[nn.Module]:
    """The final norm, what stands behind it, and the unembedding where its weight is not that of the embedding."""
    found = [final_norm(model, layout), transform(model), None if tied(model) else unembedding(model)]
    return [one for one in found if one is not None]


def tied(model: PreTrainedModel) -> bool:
    """Whether embedding and unembedding are one weight."""
    embedding: nn.Module = model.get_input_embeddings()  # pyright: ignore[reportAssignmentType]
    own = {id(one) for one in embedding.parameters()}
    return any(id(one) in own for one in unembedding(model).parameters())


@dataclass(frozen=True)
class PartBytes:
    """Bytes of the weights of a model, by the parts that are placed as one."""

    first: int
    blocks: tuple[int, ...]
    last: int

    @property
    def total(self) -> int:
        """Of the model."""
        return self.first + sum(self.blocks) + self.last


def split(parts: PartBytes, free: Mapping[torch.device, int]) -> Placement | None:
    """Divide a model so that the fullest device is as empty as it can be, whole blocks in order.

    Args:
        parts: their sizes.
        free: device → its free bytes, in the order in which blocks go there; the first one has the embedding.

    Returns:
        None: it does not fit into nine tenths of what is free.
    """
    devices = list(free)
    sizes = (*parts.blocks, parts.last)

    def at(share: float) -> Placement | None:
        places = _filled(parts.first, sizes, [share * free[device] for device in devices])
        if places is None:
            return None
        return Placement(devices[0], tuple(devices[place] for place in places[:-1]), devices[places[-1]])

    if at(USABLE) is None:
        return None
    low, high = 0.0, USABLE
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if at(middle) is not None else (middle, high)
    return at(high)


def _filled(first: int, sizes: Sequence[int], room: Sequence[float]) -> list[int] | None:
    """Index of the device of each part, the devices filled one after the other; None: there is too little room."""
    left, here, places = list(room), 0, list[int]()
    left[0] -= first
    if left[0] < 0:
        return None
    for size in sizes:
        while here < len(left) and size > left[here]:
            here += 1
        if here == len(left):
            return None
        left[here] -= size
        places.append(here)
    return places
