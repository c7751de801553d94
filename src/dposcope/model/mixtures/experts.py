"""The experts of a block: sizes, names of neurons, and the weights of their down projections.

transformers keeps the experts of a block in one module with 3-D parameters and computes them in one function
(https://huggingface.co/docs/transformers/experts_interface).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

from torch import Tensor, nn

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError

BIAS: Final = "down_proj_bias"
WEIGHT: Final = "down_proj"
_ON_ALL_TOKENS: Final = "Llama4TextExperts"
SORTED, UNSORTED = "grouped_mm", "batched_mm"
"""Ways of computing experts: rows of activations sorted by expert, or in the order of tokens."""


@dataclass(frozen=True)
class ExpertSizes:
    """Sizes of a block's experts. A neuron's place in its block is expert · width + index.

    Shared experts, which every token runs through, come after the routed ones. A dense block among mixtures counts as
    experts that every token is sent to.
    """

    count: int
    """E, experts per block: of the block that has most."""
    width: int
    """I, neurons per expert."""
    routed: int
    """How many of them a router chooses among."""

    def name(self, block: int, place: int) -> str:
        """Block, expert and index, such as `3.7.120`."""
        return f"{block}.{place // self.width}.{place % self.width}"


class ExpertsModule(Protocol):
    """What transformers' `use_experts_implementation` gives a module."""

    config: Any
    is_transposed: bool
    has_gate: bool
    has_post_expert_norm: bool
    _apply_gate: Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Experts:
    """The down projections of a block's experts."""

    module: nn.Module

    __repr__ = short_repr

    @classmethod
    def of(cls, module: nn.Module) -> "Experts | None":
        """The experts that a module holds; None if it is anything else."""
        if type(module).__name__ == _ON_ALL_TOKENS:
            return cls(module)
        # An attribute that transformers sets on each module of this kind.
        if "is_transposed" not in vars(module) or WEIGHT not in dict(module.named_parameters(recurse=False)):
            return None
        kind = cast(ExpertsModule, module)
        return cls(module) if not kind.has_post_expert_norm else None

    @property
    def gated(self) -> bool:
        """Whether an expert multiplies two projections; where not, as in Nemotron-H, an activation follows one."""
        return self.on_all_tokens or cast(ExpertsModule, self.module).has_gate

    @property
    def weight(self) -> nn.Parameter:
        """Of all down projections, `[E, d, I]`, or `[E, I, d]` where it is transposed."""
        return self.module.get_parameter(WEIGHT)

    @property
    def bias(self) -> nn.Parameter | None:
        """Of all down projections, `[E, d]`; None in most families."""
        return dict(self.module.named_parameters(recurse=False)).get(BIAS)

    @property
    def on_all_tokens(self) -> bool:
        """Whether every expert computes every token, those of others as zeros, in a function of its own (Llama 4)."""
        return type(self.module).__name__ == _ON_ALL_TOKENS

    @property
    def transposed(self) -> bool:
        """Whether value vectors are rows of the stored weight."""
        return self.on_all_tokens or cast(ExpertsModule, self.module).is_transposed

    @property
    def sizes(self) -> ExpertSizes:
        """E and I, all routed."""
        shape = self.weight.shape
        return ExpertSizes(shape[0], shape[1] if self.transposed else shape[2], shape[0])

    @property
    def outputs(self) -> int:
        """d."""
        return self.weight.shape[2] if self.transposed else self.weight.shape[1]

    def vectors(self, weight: Tensor | None = None) -> Tensor:
        """Value vectors, `[E · I, d]`. They share storage with the weight only where it is transposed.

        Args:
            weight: another one of the same shape; None: the module's own.
        """
        own = self.weight if weight is None else weight
        return (own if self.transposed else own.transpose(1, 2)).reshape(-1, self.outputs)

    def as_weight(self, vectors: Tensor) -> Tensor:
        """Value vectors `[E · I, d]` in the shape of the weight."""
        sizes = self.sizes
        stacked = vectors.reshape(sizes.count, sizes.width, self.outputs)
        return stacked if self.transposed else stacked.transpose(1, 2)

    def check(self) -> None:
        """Refuse a way of computing experts whose activations cannot be read.

        Raises:
            DposcopeError: it is not one that is known.
        """
        if self.on_all_tokens:
            return
        implementation = cast(ExpertsModule, self.module).config._experts_implementation
        if implementation not in (SORTED, UNSORTED):
            raise DposcopeError(
                f"the model computes its experts by {implementation!r}, whose activations cannot be read; call "
                f"model.set_experts_implementation({SORTED!r}) first"
            )
