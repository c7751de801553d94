"""The experts of a block: sizes, names of neurons, and the weights of their down projections.

transformers keeps the experts of a block in one module with 3-D parameters and computes them in one function
(https://huggingface.co/docs/transformers/experts_interface). A few families do it in a way of their own, see `Way`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol, cast

from torch import Tensor, nn

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError

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


class Way(Enum):
    """How a module computes its experts."""

    INTERFACE = "interface"
    """In the one function of transformers."""
    ALL_TOKENS = "all tokens"
    """Every expert computes every token, those of others as zeros (Llama 4)."""
    ONE_BY_ONE = "one by one"
    """A loop over the experts, each of which computes its tokens (DBRX)."""
    SORTED_ROWS = "sorted rows"
    """By two modules, of up and of down projections, whose rows are sorted by expert (JetMoE)."""


@dataclass(frozen=True)
class _Kind:
    """How a class of modules keeps and computes experts; names of parameters are dotted, from the module."""

    way: Way
    weight: str = "down_proj"
    bias: str = "down_proj_bias"
    transposed: bool = False


_INTERFACE: Final = _Kind(Way.INTERFACE)
_OWN: Final = {
    "Llama4TextExperts": _Kind(Way.ALL_TOKENS, transposed=True),
    "DbrxExperts": _Kind(Way.ONE_BY_ONE, "mlp.w2", transposed=True),
    "JetMoeMoE": _Kind(Way.SORTED_ROWS, "output_linear.weight", "bias"),
}
"""Classes that compute experts in a way of their own."""
_ATTENTION: Final = {"JetMoeAttention": _Kind(Way.SORTED_ROWS, "experts.output_linear.weight", "experts.bias")}
"""Attention whose projections of queries and of outputs are experts: their inputs are no neurons."""
_SCALED: Final = {
    "BeamExperts": "routed_scaling_factor",
    "LagunaExperts": "moe_routed_scaling_factor",
    "MiniMaxM3VLExperts": "routed_scaling_factor",
}
"""Classes of experts that a factor of the config multiplies behind the router's weights."""


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
        if type(module).__name__ in _OWN:
            return cls(module)
        # An attribute that transformers sets on each module of this kind.
        named = dict(module.named_parameters(recurse=False))
        if "is_transposed" not in vars(module) or _INTERFACE.weight not in named:
            return None
        return cls(module) if not cast(ExpertsModule, module).has_post_expert_norm else None

    @classmethod
    def of_attention(cls, module: nn.Module) -> "Experts | None":
        """The output projections of attention that is a mixture itself (JetMoE); None if it is anything else."""
        return cls(module) if type(module).__name__ in _ATTENTION else None

    @classmethod
    def within(cls, module: nn.Module) -> "Experts | None":
        """The experts of an MLP or of attention; None if it is anything else."""
        return cls.of(module) or cls.of_attention(module)

    @property
    def way(self) -> Way:
        """How they are computed."""
        return self._kind.way

    @property
    def _kind(self) -> _Kind:
        name = type(self.module).__name__
        return (_OWN | _ATTENTION).get(name, _INTERFACE)

    @property
    def gated(self) -> bool:
        """Whether an expert multiplies two projections; where not, as in Nemotron-H, an activation follows one."""
        return self.way is not Way.INTERFACE or cast(ExpertsModule, self.module).has_gate

    @property
    def whole(self) -> bool:
        """Whether the module has the router, too."""
        return self.way is Way.SORTED_ROWS

    @property
    def factor(self) -> float:
        """What multiplies the router's weights behind the experts; 1 in most families."""
        named = _SCALED.get(type(self.module).__name__)
        return 1.0 if named is None else float(getattr(cast(ExpertsModule, self.module).config, named))

    @property
    def weight(self) -> nn.Parameter:
        """Of all down projections, `[E, d, I]`, or `[E, I, d]` where it is transposed; of DBRX `[E · I, d]`."""
        return self.module.get_parameter(self.weight_name)

    @property
    def weight_name(self) -> str:
        """Its dotted name, from the module."""
        return self._kind.weight

    @property
    def bias(self) -> nn.Parameter | None:
        """Of all down projections, `[E, d]`; of JetMoE `[d]`, which is added once; None in most families."""
        return dict(self.module.named_parameters()).get(self.bias_name)

    @property
    def bias_name(self) -> str:
        """Its dotted name, from the module."""
        return self._kind.bias

    @property
    def own(self) -> list[nn.Parameter]:
        """Parameters of which each expert has its share."""
        named = self.module.named_parameters()
        # The module of a whole mixture has its router and one bias, too.
        return [one for name, one in named if not self.whole or name.endswith("_linear.weight")]

    @property
    def transposed(self) -> bool:
        """Whether value vectors are rows of the stored weight."""
        return self._kind.transposed or (self.way is Way.INTERFACE and cast(ExpertsModule, self.module).is_transposed)

    @property
    def sizes(self) -> ExpertSizes:
        """E and I, all routed."""
        shape = self.stacked(self.weight).shape
        return ExpertSizes(shape[0], shape[1] if self.transposed else shape[2], shape[0])

    @property
    def outputs(self) -> int:
        """What an expert writes: d, unless another projection follows the experts."""
        return self.weight.shape[-1 if self.transposed else -2]

    def stacked(self, weight: Tensor) -> Tensor:
        """A weight of the stored shape as `[E, d, I]`, or `[E, I, d]` where it is transposed: a view."""
        if weight.ndim == 3:
            return weight
        return weight.view(int(cast(Any, self.module).num_experts), -1, weight.shape[-1])

    @property
    def vectors(self) -> Tensor:
        """Value vectors, `[E · I, d]`. They share storage with the weight only where it is transposed."""
        stacked = self.stacked(self.weight)
        return (stacked if self.transposed else stacked.transpose(1, 2)).reshape(-1, self.outputs)

    def check(self) -> None:
        """Refuse a way of computing experts whose activations cannot be read.

        Raises:
            DposcopeError: it is not one that is known.
        """
        if self.way is not Way.INTERFACE:
            return
        implementation = cast(ExpertsModule, self.module).config._experts_implementation
        if implementation not in (SORTED, UNSORTED):
            raise DposcopeError(
                f"the model computes its experts by {implementation!r}, whose activations cannot be read; call "
                f"model.set_experts_implementation({SORTED!r}) first"
            )
