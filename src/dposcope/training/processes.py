"""Several processes that train as one, started by `torchrun` or `accelerate launch`: ranks, broadcast and gather.

Each process holds the whole model and reads its share of every batch. The main process, of rank 0, alone writes to the
run's folder and reports. An error in one process is raised in all, so that none waits for one that has stopped.

Objects go through `torch.distributed` itself: accelerate's `gather_object` gives back each process's own object alone,
without a word, where accelerate's state was made for another device.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from dposcope.errors import DposcopeError
from dposcope.launcher import Launched, local_rank

T = TypeVar("T")

_TIMEOUT = timedelta(days=7)
"""Of every collective: the main process may write for long. Where one process dies, the launcher ends all."""
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
    """Of processes: the world size."""

    @classmethod
    def here(cls) -> "Processes":
        """Read from the launcher's environment variables; one process without them.

        Raises:
            DposcopeError: the launcher asks for one model over several GPUs, or for several machines; or there are
                several processes and no launcher.
        """
        for name, what in _SHARDING.items():
            if os.environ.get(name, "false").lower() in ("true", "1"):
                raise DposcopeError(
                    f"a model split over GPUs ({what}) cannot be trained, as the loss reads the whole unembedding; "
                    "start one process per GPU with the whole model: torchrun --nproc-per-node N -m dposcope dpo …"
                )
        launched = Launched.here()
        if launched.count == 1:
            return cls()
        # Once processes are joined, accelerate may have set LOCAL_WORLD_SIZE to 1 where it was not set.
        if not distributed.is_initialized() and launched.on_this_machine != launched.count:
            raise DposcopeError(
                "training in several processes runs on one machine; start them all on one, or one process alone"
            )
        return cls(launched.rank, launched.count)

    @property
    def alone(self) -> bool:
        """Whether there is no other process."""
        return self.count == 1

    @property
    def is_main(self) -> bool:
        """Whether this is the main process, of rank 0."""
        return self.rank == 0

    def join(self, device: str) -> None:
        """Start the process group; a second call does nothing.

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
                local = local_rank()
                torch.cuda.set_device(self.rank if local is None else local)
            # Gradients go over NCCL, objects over gloo, which needs no GPU.
            distributed.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=_TIMEOUT)

    def leave(self) -> None:
        """End the process group, when all is done: NCCL warns of a process that exits without."""
        if not self.alone and distributed.is_initialized():
            distributed.destroy_process_group()

    def broadcast(self, value: T) -> T:
        """The main process's value, in every process."""
        if self.alone:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]

    def gather(self, value: T) -> list[T]:
        """The values of all processes in the order of ranks, in every process."""
        if self.alone:
            return [value]
        values: list[Any] = [None] * self.count
        distributed.all_gather_object(values, value)
        return values

    @contextmanager
    def failing_together(self) -> Generator[None]:
        """An error inside, in any process, is raised in all; no process goes on before all have left the block.

        Raises:
            DposcopeError: another process failed, for the reason given.
        """
        if self.alone:
            yield
            return
        try:
            yield
        except Exception as error:
            self.gather(str(error) or type(error).__name__)
            raise
        reason = next((reason for reason in self.gather("") if reason), None)
        if reason is not None:
            raise DposcopeError(reason)

    def on_main(self, make: Callable[[], T]) -> T | None:
        """What `make` returns, called in the main process while the others wait; None in those.

        Raises:
            DposcopeError: the main process failed.
        """
        with self.failing_together():
            return make() if self.is_main else None
