"""Architectures that no layout can describe: what their neurons write does not reach the residual stream as it is."""

from typing import Final

from transformers import PreTrainedModel

from dposcope.errors import DposcopeError

UNSUPPORTED: Final[dict[str, str]] = {
    "inkling_text": "a convolution over tokens changes what its MLPs write into the residual stream",
    "inkling2_text": "a convolution changes what its MLPs write, and blocks attend to sums of blocks before them",
    "longcat_flash": "a block has two attentions, two MLPs and experts between them, some of which copy their input",
}
"""Types of decoders, and why they are refused."""


def check_supported(model: PreTrainedModel) -> None:
    """Refuse an architecture that no layout can describe.

    Raises:
        DposcopeError: it is one, and the message says why.
    """
    why = UNSUPPORTED.get(model.config.get_text_config().model_type)
    if why is not None:
        raise DposcopeError(f"{model.config.model_type} is not supported: {why}; use another model")
