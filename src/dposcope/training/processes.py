"""Several processes that train as one, started by `torchrun` or `accelerate launch`: who is who, and how they agree.

Each holds the whole model and reads its share of every batch. The first alone holds the run's folder and talks to
people. What goes wrong in one is told to all, so that none waits for another that has given up.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import distributed

from dposcope.errors import DposcopeError

T = TypeVar("T")

_PATIENCE = timedelta(days=7)
"""How long one waits for another; the launcher ends all of them when one is gone."""
_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or sequence parallelism",
}


@dataclass(frozen=True)
class Processes:
    """The processes of one training; by default this one alone."""

    rank: int = 0
    """Of this process, from 0."""
    count: int = 1

    @classmethod
    def here(cls) -> "Processes":
        """As the launcher's environment says; alone without one.

        Raises:
            DposcopeError: it asks for what cannot be done: one model over several GPUs, or several machines.
        """
        for name, what in _SHARDING.items():
            if os.environ.get(name, "false").lower() in ("true", "1"):
                raise DposcopeError(
                    f"a model split over GPUs ({what}) cannot be trained, as the loss reads the whole unembedding; "
                    "start one process per GPU with the whole model: torchrun --nproc-per-node N -m dposcope dpo …"
                )
        count = _number("WORLD_SIZE", 1)
        if count == 1:
            return cls()
        # Accelerate writes a 1 of its own there where it was not set.
        if not distributed.is_initialized() and _number("LOCAL_WORLD_SIZE", count) != count:
            raise DposcopeError(
                "training in several processes runs on one machine; start them all on one, or one process alone"
            )
        return cls(_number("RANK", 0), count)

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    @property
    def first(self) -> bool:
        """Whether this is the one that holds the folder and talks."""
        return self.rank == 0

    def join(self, device: str) -> None:
        """Meet the others; a second call does nothing.

        Args:
            device: where training goes: "cpu", "cuda" or "auto".

        Raises:
            DposcopeError: `device` names one GPU for all, or there are fewer GPUs than processes.
        """
        if self.alone:
            return
        kind, _, index = device.partition(":")
        if index:
            raise DposcopeError(
                f"--device {device} is one device for {self.count} processes; leave it out, and each takes its own GPU"
            )
        on_gpu = kind != "cpu" and torch.cuda.is_available()
        if on_gpu and torch.cuda.device_count() < self.count:
            raise DposcopeError(
                f"{self.count} processes need a GPU each, and here are {torch.cuda.device_count()}; start no more"
            )
        if not distributed.is_initialized():
            if on_gpu:
                torch.cuda.set_device(_number("LOCAL_RANK", self.rank))
            # Gradients go over it; words over a group of their own, which needs no GPU.
            distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=_PATIENCE)
        _words()

    def leave(self) -> None:
        """Part from the others, when all is done: NCCL complains of a process that ends without."""
        if not self.alone and distributed.is_initialized():
            _words.cache_clear()
            distributed.destroy_process_group()

    def told(self, value: T) -> T:
        """The first one's value, in all."""
        if self.alone:
            return value
        values: list[Any] = [value if self.first else None]
        distributed.broadcast_object_list(values, src=0, group=_words())
        return values[0]

    def gathered(self, value: T) -> list[T]:
        """Everyone's value, in the order of ranks, in all."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value, group=_words())
        return values

    @contextmanager
    def agreeing(self) -> Generator[None]:
        """What is raised inside by one is raised by all; none goes on before all are through.

        Raises:
            DposcopeError: another process failed; its reason is given.
        """
        if self.alone:
            yield
            return
        try:
            yield
        except Exception as error:
            self.gathered(str(error) or type(error).__name__)
            raise
        reason = next((reason for reason in self.gathered("") if reason), None)
        if reason is not None:
            raise DposcopeError(reason)

    def by_first(self, make: Callable[[], T]) -> T | None:
        """The first one makes it while the others wait; None in those.

        Raises:
            DposcopeError: the first one failed.
        """
        with self.agreeing():
            return make() if self.first else None


def _number(name: str, usual: int) -> int:
    text = os.environ.get(name, "")
    return int(text) if text.isdigit() else usual


@lru_cache(maxsize=1)
def _words() -> distributed.ProcessGroup:
    # Typed as if this process might stand outside the group, which has all.
    return distributed.new_group(backend="gloo", timeout=_PATIENCE)  # pyright: ignore[reportReturnType]
