"""Set neurons to constants: m_i := c_i. Used for patching (paper 3.3), and for edits by the published code."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm, check_tensor
from dposcope.model.frames import Frame, Positions
from dposcope.model.hooks import Applied, Change, Site, hooked, neuron_sites
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.sets import NeuronSet, check_neurons


@dataclass(frozen=True, eq=False)
class Assign:
    """Give each neuron of a set a constant activation, such as its mean after tuning."""

    values: Tensor
    """c, `[L, d_mlp]`, float32; only entries of `neurons` are read."""
    neurons: NeuronSet
    positions: Positions = Positions.LAST

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Normalise types; check shapes and values."""
        check_tensor("values to assign", self.values)
        values = self.values.detach().to("cpu", torch.float32, copy=True)
        check_neurons(self.neurons)
        if values.shape != self.neurons.mask.shape:
            raise DposcopeError(
                f"values have shape {list(values.shape)}, the neuron set {list(self.neurons.mask.shape)}"
            )
        if not values[self.neurons.mask].isfinite().all():
            raise DposcopeError("values to assign hold NaN or infinity")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "positions", Positions(self.positions))

    def changes(self, lm: LanguageModel) -> list[tuple[Site, Change]]:
        """Its hooks; none for blocks without a neuron of the set."""
        check_lm(lm)
        if self.values.shape != (lm.n_blocks, lm.d_mlp):
            raise DposcopeError(
                f"values for {list(self.values.shape)} neurons do not fit a model with [{lm.n_blocks}, {lm.d_mlp}]"
            )

        def assign(block: int, columns: slice) -> Change:
            device = lm.device_of_block(block)
            constants = self.values[block, columns].to(device, lm.dtype)
            members = self.neurons.mask[block, columns].to(device)

            def change(activations: Tensor, _frame: Frame) -> Tensor:
                device, dtype = activations.device, activations.dtype
                return torch.where(members.to(device), constants.to(device, dtype), activations)

            return change

        return [
            (site, assign(block, site.columns))
            for block in self.neurons.mask.any(1).nonzero().squeeze(1).tolist()
            for site in neuron_sites(lm, block)
            if bool(self.neurons.mask[block, site.columns].any())
        ]

    def on(self, lm: LanguageModel) -> AbstractContextManager[Applied]:
        """Apply inside a context; the model itself stays as it is."""
        return hooked(lm, self.changes(lm), positions=self.positions)
