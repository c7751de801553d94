"""Gradient checkpointing: activations are computed again in the backward pass, which saves memory for long texts."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(blocks: Sequence[nn.Module]) -> Generator[None]:
    """Inside, a forward pass keeps only the inputs of each block.

    The gradient checkpointing of transformers works in training mode only, but here models stay in evaluation mode. The
    backward pass may run after the context; hooks and other changes of the model must then still be active.
    """
    for block in blocks:
        # Nothing is random in evaluation mode, so the state of random generators need not be kept.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # restores the method of the class
