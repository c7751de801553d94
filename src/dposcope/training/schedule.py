"""The schedule of a training. It stands in its own file, so that settings can be read without loading torch."""

import math
from dataclasses import dataclass
from typing import Final, Literal, get_args

from dposcope.data.given.numbers import number, seed_of, whole
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError, plural
from dposcope.protocols import check_choice
from dposcope.training.optimizers import Optimizer

_LEAST: Final = {
    **dict.fromkeys(("batch_size", "steps", "validate_every", "patience"), 1),
    **dict.fromkeys(("warmup_steps", "windows_per_batch"), 0),
}
"""Counts of a schedule, and the smallest of each."""


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
    validation_batch_size: int | None = None
    """Pairs in memory at a time in validation; None: as many as of training. The loss does not depend on it, but by the
    reference protocol, whose KL is averaged over the padding of a batch, and where a batch draws windows."""
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
        check_choice("optimizer", self.optimizer, get_args(Optimizer))
        check_choice("decay", self.decay, ("none", "linear"))
        for part, least in _LEAST.items():
            count = getattr(self, part)
            if not (count is None and part == "patience") and whole(part, count) < least:
                raise DposcopeError(f"{part} {count} is below {least}; give {least} or more")
        object.__setattr__(self, "seed", seed_of(self.seed))
        if self.micro_batch_size is not None and (
            whole("micro_batch_size", self.micro_batch_size) < 1 or self.batch_size % self.micro_batch_size
        ):
            raise DposcopeError(
                f"a batch of {self.batch_size} pairs cannot be divided into micro-batches of {self.micro_batch_size}; "
                "choose a divisor for --micro-batch-size"
            )
        at_once = self.validation_batch_size
        if at_once is not None and whole("validation_batch_size", at_once) < 1:
            raise DposcopeError(f"{at_once} pairs at a time validate nothing; give 1 or more")
        if not number("learning_rate", self.learning_rate) > 0:
            raise DposcopeError(f"a learning rate of {self.learning_rate} trains nothing; give one above 0")
        for part in ("learning_rate", "max_grad_norm"):
            size = getattr(self, part)
            if size is not None and not math.isfinite(number(part, size)):
                raise DposcopeError(f"{part} {size} is no finite number; give one")

    @property
    def validated_at_once(self) -> int:
        """Pairs in memory at a time in validation."""
        return self.validation_batch_size or self.micro_batch_size or self.batch_size


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
