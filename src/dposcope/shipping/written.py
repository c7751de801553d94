"""A stored tensor, changed and rounded once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dposcope.errors import DposcopeError
from dposcope.shipping.stored import Stored

Parts = Iterator[tuple[Tensor, Tensor]]
"""Views that together make up the old tensor, each with its new values in float64."""


@dataclass(frozen=True)
class Written:
    """A tensor ready to be stored."""

    stored: Stored
    tensor: Tensor
    rounding: float
    """Largest |stored − exact| over the largest |exact|."""


@dataclass(frozen=True)
class Rewriting:
    """What is to become of a stored tensor; called, it reads it and works it out."""

    stored: Stored
    new: Callable[[Tensor], Parts]

    @torch.no_grad()
    def __call__(self) -> Written:
        """Read the tensor and change it.

        Raises:
            DposcopeError: a new value is out of the range of the tensor's type.
        """
        tensor = self.stored.read()
        error, largest = 0.0, 0.0
        for view, exact in self.new(tensor):
            view.copy_(exact.to(tensor.dtype))
            if bool((view.isinf() & exact.isfinite()).any()):
                kind = str(tensor.dtype).removeprefix("torch.")
                raise DposcopeError(
                    f"the edit takes {self.stored.name} out of the range of {kind}; "
                    "use a weaker edit, or a checkpoint of a wider type"
                )
            error = max(error, float((view.double() - exact).abs().max()))
            largest = max(largest, float(exact.abs().max()))
        return Written(self.stored, tensor, error / largest if largest > 0 else 0.0)
