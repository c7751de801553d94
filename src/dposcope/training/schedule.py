"""The schedule of a training. It stands in its own file, so that settings can be read without loading torch."""

import math
from dataclasses import dataclass
from typing import Literal

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError, plural
from dposcope.training.optimizers import Optimizer


@dataclass(frozen=True)
class Schedule:
    """Optimiser, learning rate, batches and validation of a training."""

    optimizer: Optimizer = "rmsprop"
    """Those of 8 bits are bitsandbytes's: they keep a byte for each state instead of four."""
    learning_rate: float = 1e-5
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    decay: Literal["none", "linear"] = "none"
    """The learning rate after the warm-up: constant, or linear to 0 at the end."""
    batch_size: int = 8
    """Pairs per step."""
    micro_batch_size: int | None = None
    """Pairs in memory at a time, a divisor of `batch_size`; None: all of them."""
    steps: int = 100
    """Optimiser steps in all."""
    max_grad_norm: float | None = None
    """Gradients longer than this are clipped to it; None: no clipping. Both optimisers divide by a running average of
    past gradients, so steps get shorter as gradients shrink during learning. With clipping, steps stay long."""
    validate_every: int = 10
    """Steps between validations; checkpoints are written then."""
    patience: int | None = None
    """Training stops after so many validations without a lower loss, and the best step is taken. None: it does not stop
    early, and the last step is taken."""
    windows_per_batch: int = 2
    """Windows of neutral text with each micro-batch, where the objective's KL is on neutral text."""
    seed: int = 0
    autocast: bool = False
    """Run under bfloat16 autocast, with weights in float32."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Refuse values that no training can use."""
        if self.micro_batch_size is not None and (self.micro_batch_size < 1 or self.batch_size % self.micro_batch_size):
            raise DposcopeError(
                f"a batch of {self.batch_size} pairs cannot be divided into micro-batches of {self.micro_batch_size}; "
                "choose a divisor for --micro-batch-size"
            )
        if not self.learning_rate > 0:
            raise DposcopeError(f"a learning rate of {self.learning_rate} trains nothing; give one above 0")


def examples_seen(steps: int, *, pairs: int, batch_size: int) -> int:
    """Pairs seen in so many steps, repetitions counted. The last batch of a pass may be smaller."""
    passes, more = divmod(steps, math.ceil(pairs / batch_size))
    return passes * pairs + more * batch_size


def told_steps(steps: int, *, pairs: int, batch_size: int) -> str:
    """In words: "50 steps of 8 pairs"; "of up to 8" where the last batch of a pass was smaller.

    A step reads no more pairs than there are.
    """
    size = min(batch_size, pairs)
    smaller = examples_seen(steps, pairs=pairs, batch_size=batch_size) < steps * size
    return f"{plural(steps, 'step')} of {'up to ' if smaller else ''}{plural(size, 'pair')}"


def steps_for(examples: int, pairs: int, batch_size: int) -> int:
    """Optimiser steps in which so many examples are seen, each pair once an epoch.

    The last batch of an epoch has the pairs that are left, so it may be smaller than the others.

    Args:
        examples: pairs seen, those of all epochs together.
        pairs: of an epoch.
        batch_size: pairs of a step.
    """
    epochs, rest = divmod(examples, max(pairs, 1))
    return max(1, epochs * math.ceil(pairs / batch_size) + math.ceil(rest / batch_size))
