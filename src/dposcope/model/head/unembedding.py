"""The unembedding as numbers: a weight, a bias, a factor and a soft-cap."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from dposcope.errors import DposcopeError
from dposcope.model.head.logits import logit_scale, logit_softcap, scaled_and_capped, unembedding
from dposcope.model.quantised.weights import is_quantised


@dataclass(frozen=True, eq=False)
class Unembedding:
    """The head that turns what `transformed` gives into logits: `cap·tanh(s (x Wᵀ + b)/cap)`."""

    weight: Tensor
    """W, `[V, d]`."""
    bias: Tensor | None = None
    """b, `[V]`."""
    softcap: float | None = None
    """Gemma 2's cap on logits."""
    scale: float = 1.0
    """s, a factor on logits (Cohere, Granite)."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> "Unembedding":
        """A model's own head.

        Raises:
            DposcopeError: its head is not one linear map, or is quantised.
        """
        head = unembedding(model)
        if is_quantised(head):
            raise DposcopeError(
                f"the unembedding of {type(model).__name__} is quantised, and training needs its numbers; quantise the "
                "model without it (llm_int8_skip_modules=['lm_head'])"
            )
        if not isinstance(head, nn.Linear):
            raise DposcopeError(
                f"the unembedding of {type(model).__name__} is {type(head).__name__}, not one linear map; "
                "leave the head out of what is adapted"
            )
        return cls(head.weight, head.bias, logit_softcap(model), logit_scale(model))

    def on(self, device: torch.device) -> "Unembedding":
        """The same on a device; itself where it is there."""
        if self.weight.device == device:
            return self
        return replace(self, weight=self.weight.to(device), bias=None if self.bias is None else self.bias.to(device))

    def logits(self, states: Tensor, tokens: slice) -> Tensor:
        """Logits of some tokens of the vocabulary, as the model makes them.

        Args:
            states: what the head reads, `[N, d]`.
            tokens: of the vocabulary.

        Returns:
            `[N, tokens]`, in the weight's dtype, which rounds them before factor and cap as the model does.
        """
        found = functional.linear(states, self.weight[tokens], None if self.bias is None else self.bias[tokens])
        return scaled_and_capped(found, self.scale, self.softcap)
