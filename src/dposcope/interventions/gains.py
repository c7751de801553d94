"""One factor per neuron: m_i := g_i m_i; or one per channel of attention heads."""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from dposcope.data.given.numbers import number, whole
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm, check_tensor
from dposcope.model.frames import Frame, Positions
from dposcope.model.hooks import Applied, Change, Site, heads_site, hooked, neuron_sites
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.sets import NeuronSet, check_neurons
from dposcope.protocols import check_choice

Of = Literal["neurons", "heads"]


@dataclass(frozen=True, eq=False)
class Gains:
    """A gain for every neuron of a model; a gain of 1 means no change.

    `group_gains` makes the gains of the paper's edit. Hooks apply gains with `.on(lm)`; an `Edit` of gains folds into
    the weights.
    """

    values: Tensor
    """g, `[L, d_mlp]`, float32, on the CPU, finite."""
    positions: Positions = Positions.ALL
    of: Of = "neurons"
    """What is scaled: neurons; or channels of the outputs of attention heads, `[L, heads · width]`, which the paper
    does not edit. Both are inputs of an output projection, so both fold."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Normalise types; check shapes and values."""
        check_tensor("gains", self.values)
        if self.values.ndim != 2:
            raise DposcopeError(f"gains need shape [L, d_mlp], not {list(self.values.shape)}")
        check_choice("of", self.of, ("neurons", "heads"))
        values = self.values.detach().to("cpu", torch.float32, copy=True)
        if not values.isfinite().all():
            raise DposcopeError("gains hold NaN or infinity; every gain must be a finite number")
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "positions", Positions(self.positions))

    @classmethod
    def ones(cls, n_blocks: int, d_mlp: int) -> "Gains":
        """Gains of 1 for all neurons."""
        return cls(torch.ones(whole("n_blocks", n_blocks), whole("d_mlp", d_mlp)))

    @property
    def touched(self) -> NeuronSet:
        """Neurons whose gain is not 1."""
        return NeuronSet(self.values != 1)

    def strength(self, factor: float) -> "Gains":
        """The same edit, weaker or stronger: 1 + factor·(g − 1)."""
        return replace(self, values=1 + number("strength", factor) * (self.values - 1))

    def shuffled(self, seed: int, *, among: NeuronSet | None = None) -> "Gains":
        """The same gains given to other neurons of their block: the control.

        Args:
            seed: of the order.
            among: every neuron of the model, see `NeuronSet.of`; None: each gain is one of a neuron.
        """
        stream = torch.Generator().manual_seed(whole("seed", seed))
        if among is not None:
            check_neurons(among)
        values = self.values.clone()
        masks = torch.ones_like(values, dtype=torch.bool) if among is None else among.mask
        if masks.shape != values.shape:
            raise DposcopeError(
                f"neurons of {list(masks.shape)} do not fit gains of {list(values.shape)}; use a set of the same model"
            )
        for row, mask in zip(values, masks, strict=True):
            own = row[mask]
            row[mask] = own[torch.randperm(len(own), generator=stream)]
        return replace(self, values=values)

    def in_blocks(self, blocks: Iterable[int]) -> "Gains":
        """The same gains in these blocks, 1 in all others.

        Raises:
            DposcopeError: there is no such block.
        """
        every = NeuronSet(torch.ones_like(self.values, dtype=torch.bool))
        return self.only(every.in_blocks(blocks))

    def furthest(self, count: int) -> NeuronSet:
        """The `count` neurons whose gains differ most from 1.

        Raises:
            DposcopeError: there are fewer neurons.
        """
        distance = (self.values - 1).abs()
        return NeuronSet(torch.ones_like(distance, dtype=torch.bool)).top(count, by=distance)

    def only(self, neurons: NeuronSet) -> "Gains":
        """The same gains on some neurons, 1 on all others.

        Raises:
            DposcopeError: the set is of another shape.
        """
        check_neurons(neurons)
        if neurons.mask.shape != self.values.shape:
            raise DposcopeError(
                f"neurons of {list(neurons.mask.shape)} do not fit gains of {list(self.values.shape)}; "
                "use a set of the same model"
            )
        return replace(self, values=torch.where(neurons.mask, self.values, 1.0))

    def changes(self, lm: LanguageModel) -> list[tuple[Site, Change]]:
        """Its hooks; none for blocks whose gains are all 1."""
        check_lm(lm)
        width = lm.d_mlp if self.of == "neurons" else lm.d_attention
        if self.values.shape != (lm.n_blocks, width):
            what = "neurons" if self.of == "neurons" else "channels of heads"
            raise DposcopeError(
                f"gains for {list(self.values.shape)} {what} do not fit a model with [{lm.n_blocks}, {width}]; "
                "use an edit made for this architecture"
            )
        sites = neuron_sites if self.of == "neurons" else _heads_sites
        touched = self.touched.mask

        def scale(block: int, columns: slice) -> Change:
            # In float32, since in bfloat16 a gain of 1.1 would have an error of 1.6 % of its shift.
            factors = self.values[block, columns].to(lm.device_of_block(block))

            def change(activations: Tensor, _frame: Frame) -> Tensor:
                return (activations * factors.to(activations.device)).to(activations.dtype)

            return change

        return [
            (site, scale(block, site.columns))
            for block in touched.any(1).nonzero().squeeze(1).tolist()
            for site in sites(lm, block)
            if bool(touched[block, site.columns].any())
        ]

    def on(self, lm: LanguageModel) -> AbstractContextManager[Applied]:
        """Apply inside a context; the model itself stays as it is."""
        return hooked(lm, self.changes(lm), positions=self.positions)


def _heads_sites(lm: LanguageModel, block: int) -> list[Site]:
    return [heads_site(lm, block)]
