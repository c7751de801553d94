"""A set of neurons."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dposcope.artefacts import NoFacts, check_facts, load_tensors, save_tensors
from dposcope.data.given.numbers import whole
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import blocks_given, check_lm, check_tensor
from dposcope.model.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class NeuronSet:
    """Neurons of a model, as a mask; combine sets with `|`, `&`, `-` and `~`."""

    mask: Tensor
    """`[L, d_mlp]`, bool, on the CPU: a copy of what was given."""

    def __post_init__(self) -> None:
        """Copy the mask; refuse what is none."""
        check_tensor("neurons", self.mask)
        if self.mask.dtype != torch.bool or self.mask.ndim != 2:
            raise DposcopeError(
                f"a NeuronSet needs a bool mask [L, d_mlp], not {self.mask.dtype} {list(self.mask.shape)}"
            )
        object.__setattr__(self, "mask", self.mask.detach().to("cpu", copy=True))

    @classmethod
    def empty(cls, n_blocks: int, d_mlp: int) -> "NeuronSet":
        """No neuron."""
        return cls(torch.zeros(whole("n_blocks", n_blocks), whole("d_mlp", d_mlp), dtype=torch.bool))

    @classmethod
    def all(cls, n_blocks: int, d_mlp: int) -> "NeuronSet":
        """Every neuron of a model whose blocks are alike."""
        return cls(torch.ones(whole("n_blocks", n_blocks), whole("d_mlp", d_mlp), dtype=torch.bool))

    @classmethod
    def of(cls, lm: LanguageModel) -> "NeuronSet":
        """Every neuron of a model."""
        check_lm(lm)
        return cls.all(lm.n_blocks, lm.d_mlp) if lm.here is None else cls(lm.here)

    def __or__(self, other: "NeuronSet") -> "NeuronSet":
        """Neurons of either."""
        return self._with(other, torch.logical_or)

    def __and__(self, other: "NeuronSet") -> "NeuronSet":
        """Neurons of both."""
        return self._with(other, torch.logical_and)

    def __sub__(self, other: "NeuronSet") -> "NeuronSet":
        """Neurons of this set that are not in `other`."""
        return self._with(other, lambda mine, theirs: mine & ~theirs)

    def __invert__(self) -> "NeuronSet":
        """All other neurons."""
        return NeuronSet(~self.mask)

    def __eq__(self, other: object) -> bool:
        """Same neurons."""
        return isinstance(other, NeuronSet) and torch.equal(self.mask, other.mask)

    def __hash__(self) -> int:
        """Of the neurons."""
        return hash(self.mask.numpy().tobytes())

    def __len__(self) -> int:
        """How many."""
        return int(self.mask.sum())

    def __repr__(self) -> str:
        """Size and spread at a glance."""
        blocks = int(self.mask.any(1).sum())
        share = len(self) / max(self.mask.numel(), 1)
        return f"NeuronSet({len(self):,} of {self.mask.numel():,} neurons, {share:.1%}, in {blocks} blocks)"

    @property
    def per_block(self) -> list[int]:
        """How many in each block."""
        return self.mask.sum(1).tolist()

    def top(self, n: int, *, by: Tensor) -> "NeuronSet":
        """The n neurons of this set with the highest score; ties go to the lower block, then index.

        Args:
            n: how many, at most the set's size.
            by: scores `[L, d_mlp]`; NaN is refused.

        Raises:
            DposcopeError: n is negative or above the size, or scores do not fit.
        """
        check_tensor("scores", by)
        if by.shape != self.mask.shape:
            raise DposcopeError(f"scores have shape {list(by.shape)}, neurons {list(self.mask.shape)}")
        if not 0 <= whole("n", n) <= len(self):
            raise DposcopeError(f"cannot take the top {n:,} of {len(self):,} neurons")
        scores = by.double().flatten()
        members = self.mask.flatten().nonzero().squeeze(1)
        if scores[members].isnan().any():
            raise DposcopeError("scores hold NaN; a neuron without a score cannot be ranked")
        chosen = members[scores[members].argsort(descending=True, stable=True)[:n]]
        mask = torch.zeros_like(self.mask).flatten()
        mask[chosen] = True
        return NeuronSet(mask.view_as(self.mask))

    def random_like(self, seed: int, *, among: "NeuronSet | None" = None) -> "NeuronSet":
        """As many random neurons in each block as this set has there: a control that keeps the layers.

        Args:
            seed: of the draw.
            among: the only neurons to draw from, such as those outside the set; None: all, for a model whose blocks
                are alike. Where they are not (`lm.here`), give `NeuronSet.of(lm)` or a part of it.

        Raises:
            DposcopeError: a block has too few to draw from, or `among` is of another shape.
        """
        stream = torch.Generator().manual_seed(whole("seed", seed))
        mask = torch.zeros_like(self.mask)
        open_to_draw = self._open_to_draw(among)
        for block, count in enumerate(self.per_block):
            members = open_to_draw[block].nonzero().squeeze(1)
            if len(members) < count:
                raise DposcopeError(
                    f"block {block} has {len(members):,} neurons to draw {count:,} random ones from; ask for fewer"
                )
            mask[block, members[torch.randperm(len(members), generator=stream)[:count]]] = True
        return NeuronSet(mask)

    def random_matched(self, seed: int, *, by: Tensor, bins: int = 50, among: "NeuronSet | None" = None) -> "NeuronSet":
        """As many random neurons with like scores: a control that keeps the size of what is compared.

        The set and the neurons to draw from are cut into `bins` of equal number by score; from each bin, as many are
        drawn as this set has there.

        Args:
            seed: of the draw.
            by: scores `[L, d_mlp]`, such as |Δ|; NaN is refused.
            bins: how many, at least 1; more keep scores closer.
            among: the only neurons to draw from, such as those outside the set; None: all, for a model whose blocks
                are alike. Where they are not (`lm.here`), give `NeuronSet.of(lm)` or a part of it.

        Raises:
            DposcopeError: scores or `among` do not fit, there is no bin, or a bin has too few to draw from.
        """
        check_tensor("scores", by)
        if by.shape != self.mask.shape:
            raise DposcopeError(f"scores have shape {list(by.shape)}, neurons {list(self.mask.shape)}")
        if whole("bins", bins) < 1:
            raise DposcopeError(f"{bins} bins hold no neuron; give at least 1")
        flat, open_to_draw = self.mask.flatten(), self._open_to_draw(among).flatten()
        order = by.double().flatten().argsort(stable=True)
        order = order[(flat | open_to_draw)[order]]
        if by.flatten()[order].isnan().any():
            raise DposcopeError("scores hold NaN; a neuron without a score cannot be matched")
        stream, mask = torch.Generator().manual_seed(whole("seed", seed)), torch.zeros_like(flat)
        for number, of_bin in enumerate(order.tensor_split(bins), 1):
            members, count = of_bin[open_to_draw[of_bin]], int(flat[of_bin].sum())
            if len(members) < count:
                raise DposcopeError(
                    f"bin {number} of {bins} by score has {len(members):,} neurons to draw {count:,} random ones from; "
                    "ask for fewer bins"
                )
            mask[members[torch.randperm(len(members), generator=stream)[:count]]] = True
        return NeuronSet(mask.view_as(self.mask))

    def in_blocks(self, blocks: Iterable[int]) -> "NeuronSet":
        """Those of this set that are in some blocks.

        Raises:
            DposcopeError: there is no such block.
        """
        chosen, count = blocks_given("blocks", blocks), len(self.mask)
        missing = [block for block in chosen if not -count <= block < count]
        if missing:
            raise DposcopeError(f"no block {missing[-1]} in a set of neurons of {count} blocks; give 0 to {count - 1}")
        inside = torch.zeros(count, 1, dtype=torch.bool)
        inside[chosen] = True
        return NeuronSet(self.mask & inside)

    def for_model(self, lm: LanguageModel) -> "NeuronSet":
        """This set, which must be of the model's neurons.

        Raises:
            DposcopeError: it is of another number of blocks or neurons.
        """
        check_lm(lm)
        if self.mask.shape != (lm.n_blocks, lm.d_mlp):
            raise DposcopeError(
                f"a set among {[*self.mask.shape]} neurons does not fit a model with [{lm.n_blocks}, {lm.d_mlp}]; give "
                "one that was made for this model"
            )
        return self

    def save(self, stem: str | Path, *, about: Mapping[str, Any] | None = None) -> None:
        """Write `stem.safetensors` and `stem.json`.

        Args:
            stem: path without suffix.
            about: JSON-able facts: model, rule, seed.
        """
        check_facts({} if about is None else about)
        save_tensors(stem, "NeuronSet", {"mask": self.mask}, {"about": dict(about or {})})

    @classmethod
    def load(cls, stem: str | Path) -> "NeuronSet":
        """Read what `save` wrote.

        Raises:
            DposcopeError: the files are missing, damaged or of another kind.
        """
        return cls(load_tensors(stem, "NeuronSet", NoFacts).tensors["mask"])

    def _open_to_draw(self, among: "NeuronSet | None") -> Tensor:
        if among is None:
            return torch.ones_like(self.mask)
        check_neurons(among)
        if among.mask.shape != self.mask.shape:
            raise DposcopeError(
                f"neurons of {list(among.mask.shape)} to draw from do not fit a set of {list(self.mask.shape)}; "
                "use a set of the same model"
            )
        return among.mask

    def _with(self, other: Any, operation: Callable[[Tensor, Tensor], Tensor]) -> "NeuronSet":
        check_neurons(other)
        if self.mask.shape != other.mask.shape:
            raise DposcopeError(f"sets of different models: {list(self.mask.shape)} and {list(other.mask.shape)}")
        return NeuronSet(operation(self.mask, other.mask))


def check_neurons(given: object) -> None:
    """Refuse what is no set of neurons, such as its mask.

    Raises:
        DposcopeError: it is none.
    """
    if not isinstance(given, NeuronSet):
        raise DposcopeError(f"a {type(given).__name__} is no set of neurons; give a NeuronSet, as NeuronSet(mask)")
