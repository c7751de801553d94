"""Types of causal models whose computation has no neurons that can be read or edited one by one, and why."""

from typing import Final

from dposcope.errors import DposcopeError

_SHARED: Final = (
    "its blocks share the weights of a transformer, whose MLP writes into what a state space reads, not into the "
    "residual stream"
)
_DRAFTS: Final = "it drafts for a larger model, whose states and keys it reads, and cannot run alone"

UNFIT: Final = {
    "blt": "it reads bytes in patches, with blocks of bytes and blocks of patches",
    "cpmant": "its tokens attend to those that follow, and to a prompt of its own",
    "gemma4_assistant": _DRAFTS,
    "gemma4_unified_assistant": _DRAFTS,
    "hrm_text": "a pass runs each of its blocks several times, so a neuron has several activations at a token",
    "xlm": "it fills in masked tokens, and has lists of attentions and of MLPs in place of blocks",
    "zamba": _SHARED,
    "zamba2": _SHARED,
}
"""Type → why it is refused."""


def check_fit(model_type: str) -> None:
    """Refuse a model of one of these types.

    Raises:
        DposcopeError: it is.
    """
    if model_type in UNFIT:
        raise DposcopeError(f"models of the type {model_type} are not supported: {UNFIT[model_type]}")
