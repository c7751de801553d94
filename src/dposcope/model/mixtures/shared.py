"""Shared experts: an MLP beside the routed experts of a block, which every token runs through."""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.model.mixtures.routing import Routing

_GATE: Final = "shared_expert_gate"
_NORM: Final = "post_mlp_layernorm"


@dataclass(frozen=True, eq=False)
class Shared:
    """The shared experts of a block, which transformers keeps as one MLP."""

    mlp: nn.Module
    out: nn.Module
    """Its output projection."""
    gate: nn.Module | None
    """A map from what the MLP reads to one number, whose sigmoid multiplies what the MLP writes; None: nothing does."""
    apart: bool = False
    """Whether it stands beside the module that holds the routed experts, and the block adds the two up (Granite)."""
    norm: nn.Module | None = None
    """A norm before the stream: of what routed and shared experts write together (A.X-K1), or of what the shared ones
    write, beside another one for the routed ones (Gemma 4)."""

    __repr__ = short_repr

    @classmethod
    def beside(cls, parent: nn.Module, writers: dict[str, nn.Module]) -> "Shared | None":
        """The shared experts beside routed ones; None where there are none.

        Args:
            parent: the module that holds the routed ones.
            writers: the projections in `parent` that write into the residual stream, by their dotted names.

        Raises:
            DposcopeError: something else writes beside the experts, or their gate is of an unknown kind.
        """
        if not writers:
            return None
        heads = {name.partition(".")[0] for name in writers}
        # The shared MLP may happen to be as wide as the stream; then its last projection is told by its name.
        outs = [name for name in writers if len(writers) == 1 or name.endswith("down_proj")]
        if len(heads) != 1 or len(outs) != 1 or "shared" not in outs[0] or "." not in outs[0]:
            raise DposcopeError(
                f"beside its experts, {type(parent).__name__} writes by {', '.join(writers)}, which is not supported"
            )
        children = dict(parent.named_children())
        mlp = parent.get_submodule(outs[0].rpartition(".")[0])
        gates = [name for name in children if "shared" in name and "gate" in name]
        if gates not in ([], [_GATE]):
            raise DposcopeError(f"{type(parent).__name__} weighs its shared experts by {gates[0]}, which is not known")
        return cls(mlp, writers[outs[0]], children.get(_GATE), norm=children.get(_NORM))


@dataclass(frozen=True, eq=False)
class Always:
    """Experts that every token is sent to: shared ones, or those that a dense block among mixtures counts as."""

    experts: int
    shared: Shared | None = None

    __repr__ = short_repr

    def routing(self, activations: Tensor, read: Tensor | None) -> Routing:
        """Of every token, `[N, experts]`.

        Args:
            activations: `[…, width]`, of N tokens.
            read: what the shared MLP read, `[…, d]`; only where it has a gate.
        """
        tokens = activations.shape[:-1].numel()
        weights = torch.ones(tokens, self.experts, dtype=activations.dtype, device=activations.device)
        if self.shared is not None and self.shared.gate is not None:
            assert read is not None  # the MLP was called before its output projection
            with torch.no_grad():
                gate: Tensor = self.shared.gate(read.reshape(tokens, -1))
                weights = weights * gate.sigmoid().to(weights.dtype)
        return Routing(torch.ones_like(weights, dtype=torch.bool), weights)
