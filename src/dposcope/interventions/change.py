"""What all interventions share: acting at some positions, and a common protocol."""

from contextlib import AbstractContextManager
from typing import Protocol, Self

import torch
from torch import Tensor

from dposcope.model.frames import Frame, Positions
from dposcope.model.hooks import Applied
from dposcope.model.language_model import LanguageModel


class Intervention(Protocol):
    """Something done to a model's activations inside a context."""

    def on(self, lm: LanguageModel) -> AbstractContextManager[Applied]:
        """Apply inside the context; the model is untouched outside, to the bit."""
        ...

    def at(self, positions: Positions | str) -> Self:
        """The same at other positions.

        Raises:
            DposcopeError: it changes weights and so acts everywhere.
        """
        ...


def at_positions(old: Tensor, new: Tensor, frame: Frame, positions: Positions) -> Tensor:
    """`new` at `positions`, `old` elsewhere; both `[B, T, n]`."""
    chosen = frame.select(positions)
    return new if chosen is None else torch.where(chosen.unsqueeze(-1), new, old)
