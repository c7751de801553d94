"""Projections, whatever their class: their sizes, their value vectors, and where they run."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Final

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from dposcope.errors import DposcopeError
from dposcope.model.mixtures.experts import Experts
from dposcope.model.quantised.weights import PLAIN, UNQUANTISED, is_quantised, quantised_weight


@dataclass(frozen=True)
class ProjectionWidth:
    """Sizes of a projection: it reads `inputs` numbers and writes `outputs`."""

    inputs: int
    outputs: int


def projection_width(module: nn.Module) -> ProjectionWidth:
    """Sizes of a `Linear` or `Conv1D`, which store their weights transposed to each other, of a quantised layer, or of
    all experts together.

    Raises:
        DposcopeError: it is none of these.
    """
    experts = Experts.within(module)
    if experts is not None and experts.weight.dtype in PLAIN:
        return ProjectionWidth(experts.sizes.count * experts.sizes.width, experts.outputs)
    if is_quantised(module):
        return ProjectionWidth(int(vars(module)["in_features"]), int(vars(module)["out_features"]))
    if isinstance(module, nn.Linear | Conv1D) and module.weight.dtype in PLAIN:
        shape = module.weight.shape
        return ProjectionWidth(*shape) if isinstance(module, Conv1D) else ProjectionWidth(shape[1], shape[0])
    raise DposcopeError(
        f"an output projection is a {type(module).__name__}, not a Linear or Conv1D of plain numbers: {UNQUANTISED}"
    )


def is_projection(module: nn.Module) -> bool:
    """Whether a module is one linear map: a `Linear` or `Conv1D`, or a quantised layer in the place of one."""
    return isinstance(module, nn.Linear | Conv1D) or is_quantised(module)


RUNS_ON: Final = "_runs_on"
"""Attribute of a module whose weights are brought to a device when it runs: that device."""


def device_of_module(module: nn.Module) -> torch.device | None:
    """Where a module runs, which is where its weights are, or are brought to; None for one without any."""
    brought: torch.device | None = vars(module).get(RUNS_ON)
    return brought or next((one.device for one in chain(module.parameters(), module.buffers())), None)


def value_vectors(module: nn.Module) -> Tensor:
    """The rows v_i of an output projection as `[inputs, outputs]`: a view, sharing storage, but of most experts and of
    quantised layers a copy.

    `Linear` stores `[outputs, inputs]`, which is transposed here; `Conv1D` stores `[inputs, outputs]`. Those of a
    quantised layer are dequantised.
    """
    projection_width(module)
    experts = Experts.of(module)
    if experts is not None:
        return experts.vectors
    if is_quantised(module):
        return quantised_weight(module).T
    weight: Tensor = module.weight  # pyright: ignore[reportAssignmentType] — a Parameter of either class
    return weight if isinstance(module, Conv1D) else weight.T


def writers(block: nn.Module, width: int) -> list[str]:
    """Names of a block's projections that write `width` numbers, but for those of a norm, which write no stream."""
    return [name for name, module in _projections(block) if projection_width(module).outputs == width]


def _projections(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in block.named_modules():
        if is_projection(module) and "layernorm" not in name:
            yield name, module
