"""Activations computed again in the backward pass instead of kept: less memory where texts are long."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


@contextmanager
def recomputed(blocks: Sequence[nn.Module]) -> Generator[None]:
    """Inside, a forward pass keeps what each block reads and nothing of what happens in it.

    Transformers' own gradient checkpointing works in training mode alone, and here models stay in evaluation mode.
    The backward pass may come after the context; what is done to the model meanwhile, such as hooks, must then still
    be there.
    """
    for block in blocks:
        # There is nothing random in evaluation mode, so no state of a generator needs to be kept.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward  # the class's own again
