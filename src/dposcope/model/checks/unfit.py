"""Types of causal models that no layout can describe, and why.

They have no neurons that can be read one by one, or what neurons write does not reach the residual stream as it is.
"""

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
    "inkling_text": "a convolution over tokens changes what its MLPs write into the residual stream",
    "inkling2_text": "a convolution changes what its MLPs write, and blocks attend to sums of blocks before them",
    "longcat_flash": "a block has two attentions, two MLPs and experts between them, some of which copy their input",
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
