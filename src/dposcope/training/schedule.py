"""How training goes. Apart from the code that does it, so that settings can be read without loading torch."""

import math
from dataclasses import dataclass
from typing import Literal

from dposcope.errors import DposcopeError


@dataclass(frozen=True)
class Schedule:
    """How training goes."""

    optimizer: Literal["rmsprop", "adamw"] = "rmsprop"
    learning_rate: float = 1e-5
    warmup_steps: int = 0
    """Steps over which the learning rate rises from 0."""
    decay: Literal["none", "linear"] = "none"
    """What the learning rate does afterwards: stay, or fall to 0 by the end."""
    batch_size: int = 8
    """Pairs per step."""
    micro_batch_size: int | None = None
    """Pairs in memory at a time, a divisor of `batch_size`; None: all of them."""
    steps: int = 100
    """Optimiser steps in all."""
    max_grad_norm: float | None = None
    """Longer gradients are shortened to this. None: never. Both optimisers divide by what gradients were like before,
    so steps then get shorter by themselves as pairs are learned; gradients cut to one length keep them long."""
    validate_every: int = 10
    """Steps between validations; checkpoints are written then."""
    patience: int | None = None
    """Validations without gain on the loss before training stops, and the best is taken; None: never, and the last
    is taken."""
    windows_per_batch: int = 2
    """Windows of neutral text with each micro-batch, where the objective's KL is on neutral text."""
    seed: int = 0
    autocast: bool = False
    """Compute in bfloat16 what is safe to, weights in float32."""

    def __post_init__(self) -> None:
        """Refuse what no training can follow."""
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise DposcopeError(
                f"a batch of {self.batch_size} pairs cannot be made of {self.micro_batch_size} at a time; "
                "choose a divisor for --micro-batch-size"
            )
        if not self.learning_rate > 0:
            raise DposcopeError(f"a learning rate of {self.learning_rate} trains nothing; give one above 0")


def examples_seen(steps: int, *, pairs: int, batch_size: int) -> int:
    """Pairs seen in so many steps, repeated ones counted; the last step of a pass may have fewer than a batch."""
    passes, more = divmod(steps, math.ceil(pairs / batch_size))
    return passes * pairs + more * batch_size


def steps_for(examples: int, batch_size: int) -> int:
    """Optimiser steps in which so many examples are seen."""
    return max(1, math.ceil(examples / batch_size))
