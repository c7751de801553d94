"""Several processes that work as one, started by `torchrun` or `accelerate launch`: ranks, broadcast and gather.

Each process holds the whole model and does its share of the work. The main process, of rank 0, alone writes to the
run's folder and reports. Every exchange is one gather of what all have to say, and a process that ends early says so in
the place of its next one: so an error in one process is raised in all, and none waits for one that has stopped.

Objects go through `torch.distributed` itself: accelerate's `gather_object` gives back each process's own object alone,
without a word, where accelerate's state was made for another device.
"""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from dposcope.errors import DposcopeError, first_line, is_memory
from dposcope.processes.launcher import Launched, local_rank

T = TypeVar("T")

_TIMEOUT = timedelta(days=7)
"""Of every collective: the main process may write for long. Where one process dies, the launcher ends all."""
_SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "tensor or sequence parallelism",
}


class OtherEndedError(DposcopeError):
    """Another process has ended, for the reason given; it takes part in nothing any more."""


@dataclass(frozen=True)
class _Said:
    """What a process has to say in an exchange."""

    value: Any = None
    ended: str | None = None
    """Why the process takes part in no further exchange; None: it goes on."""


@dataclass(frozen=True)
class Processes:
    """The processes of one job; by default this one alone."""

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
                    f"a model split over GPUs ({what}) is not supported, as each process reads the whole unembedding; "
                    "start one process per GPU with the whole model: torchrun --nproc-per-node N -m dposcope …, or one "
                    "process alone with --device-map auto"
                )
        launched = Launched.here()
        if launched.count == 1:
            return cls()
        # Once processes are joined, accelerate may have set LOCAL_WORLD_SIZE to 1 where it was not set.
        if not distributed.is_initialized() and launched.on_this_machine != launched.count:
            raise DposcopeError(
                "several processes work together on one machine; start them all on one, or one process alone"
            )
        return cls(launched.rank, launched.count)

    @classmethod
    def joined(cls, device: str) -> "Processes":
        """`here`, with the process group that they need; see `join`."""
        processes = cls.here()
        processes.join(device)
        return processes

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
            device: where the model goes: "cpu", "cuda" or "auto".

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
        return self.gather(value if self.is_main or self.alone else None)[0]  # pyright: ignore[reportReturnType]

    def gather(self, value: T) -> list[T]:
        """The values of all processes in the order of ranks, in every process.

        Raises:
            DposcopeError: another process has ended.
        """
        return [value] if self.alone else [said.value for said in self._exchange(_Said(value))]

    def _exchange(self, said: _Said) -> list[_Said]:
        heard: list[Any] = [None] * self.count
        try:
            distributed.all_gather_object(heard, said)
        except RuntimeError as error:
            if is_memory(error):
                raise
            raise OtherEndedError(
                "another process has stopped without a word, killed or for want of memory; look at what it left, and "
                "run the same command again to continue"
            ) from error
        reason = next((one.ended for one in heard if one.ended is not None), None)
        if reason is not None and said.ended is None:
            raise OtherEndedError(reason)
        return heard

    @contextmanager
    def ending_together(self) -> Generator[None]:
        """Around the whole of a job: no process leaves before all do, and where one fails, all do.

        Before they have joined, each is on its own.

        Raises:
            DposcopeError: another process failed, for the reason given.
        """
        if self.alone:
            yield
            return
        try:
            yield
        except OtherEndedError:
            raise
        except Exception as error:
            if distributed.is_initialized():
                with suppress(OtherEndedError):  # the first reason is told
                    self._exchange(_Said(ended=self.reason(error)))
            raise
        if distributed.is_initialized():
            self.gather(None)

    def reason(self, error: Exception) -> str:
        """Why this process fails, in one line for the others."""
        if isinstance(error, DposcopeError):
            return str(error)
        return f"process {self.rank} of {self.count} failed: {type(error).__name__}: {first_line(error)}"

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
        except OtherEndedError:
            raise
        except Exception as error:
            self.gather(self.reason(error))
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
