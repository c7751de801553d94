"""What a stage does, in tokens, and what that costs: operations, bytes that are read, bytes that are held.

time of passes = the longest of three
    operations / (the machine's peak × the share of it that such work reaches)
    bytes that every pass must read / the machine's memory bandwidth
    blocks that are run / the rate at which Python and the libraries start them

The shares were measured with Gemma-3-270m on 2 cores. They hold for the times of whole stages, attention, norms and
hooks among them; on a CPU, expect half to twice the estimate.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import torch

from dposcope.jobs.estimate.machine import GIB, Machine
from dposcope.model.batches import rows_to_read, rows_with_room
from dposcope.model.size import ModelSize

WRITING, DRAWING, READING, TRAINING = 0.36, 0.26, 0.66, 0.5
"""Shares of the machine's peak that greedy generation, sampling, reading windows and training reach."""
STARTING: Final = 4e-4
"""Seconds that Python and the libraries take to start all kernels of a block, whatever its size."""
CHUNK: Final = 128
"""Positions whose logits are computed at a time where texts are read."""
LIBRARIES: Final = 0.7 * GIB
"""Bytes of Python with its libraries."""
_DISK: Final = 5e8
"""Bytes a second that are written to a disk, or read from it; not measured."""
_LINK: Final = 1e10
"""Bytes a second that go from main memory to a GPU; not measured."""


@dataclass(frozen=True)
class Texts:
    """How many tokens texts have."""

    lengths: tuple[int, ...] = ()

    @classmethod
    def of(cls, encoded: Iterable[Sequence[int]]) -> "Texts":
        """Of token ids."""
        return cls(tuple(len(ids) for ids in encoded))

    @classmethod
    def alike(cls, count: int, tokens: int) -> "Texts":
        """So many texts of one length."""
        return cls((tokens,) * count)

    def __len__(self) -> int:
        """How many texts."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Of all texts together."""
        return sum(self.lengths)

    @property
    def longest(self) -> int:
        """Tokens of the longest."""
        return max(self.lengths, default=0)

    def and_new(self, tokens: int) -> "Texts":
        """With so many tokens behind each."""
        return Texts(tuple(length + tokens for length in self.lengths))

    def times(self, copies: int) -> "Texts":
        """Each so many times."""
        return Texts(self.lengths * copies)

    def some(self, rows: Sequence[int]) -> "Texts":
        """Those of some rows."""
        return Texts(tuple(self.lengths[row] for row in rows))


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak, by what holds them."""

    libraries: float = LIBRARIES
    weights: float = 0.0
    """Of all models that are held at a time, in their precision."""
    cache: float = 0.0
    """Keys and values of a batch."""
    activations: float = 0.0
    """Of a batch."""
    logits: float = 0.0
    training: float = 0.0
    """Gradients, the optimiser's state, and a reference."""
    data: float = 0.0
    """Features of comments, sums over tokens."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self.parts.values())

    @property
    def parts(self) -> dict[str, float]:
        """By name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    @property
    def largest(self) -> str:
        """The name of the largest part that settings can change."""
        return max((name for name in self.parts if name != "libraries"), key=lambda name: self.parts[name])


@dataclass(frozen=True)
class Passes:
    """Passes of one kind through a model."""

    read: int = 0
    """Tokens of texts that are read, without padding."""
    written: int = 0
    """Tokens that are written, at most: a text may end before."""
    operations: float = 0.0
    """Floating-point operations, divided by the share of the peak that they reach."""
    bytes: float = 0.0
    """Read from memory."""
    blocks: float = 0.0
    """Blocks that are run, over all passes."""
    held: Memory = field(default_factory=lambda: Memory(0.0))
    """While they run, beside the weights."""

    def seconds_by(self, machine: Machine) -> dict[str, float]:
        """Each limit alone."""
        return {
            COMPUTE: self.operations / machine.operations,
            BANDWIDTH: self.bytes / machine.bandwidth,
            STARTS: self.blocks * STARTING,
        }

    def times(self, count: float) -> "Passes":
        """The same so many times."""
        return replace(
            self,
            read=round(self.read * count),
            written=round(self.written * count),
            operations=self.operations * count,
            bytes=self.bytes * count,
            blocks=self.blocks * count,
        )


COMPUTE, BANDWIDTH, STARTS, DISK, MEMORY = "compute", "memory bandwidth", "starting kernels", "disk", "memory"
LINK = "weights on their way to the GPU"
"""What a stage, or a command, is limited by."""


@dataclass(frozen=True)
class Running:
    """A model as it runs."""

    size: ModelSize
    itemsize: int
    """Bytes of a weight."""
    tokenizer: float = 0.0
    """Bytes of its tokenizer in memory."""
    saved: float = 0.0
    """Bytes of weights that quantisation saves."""

    @property
    def weights(self) -> float:
        """Bytes of all of them."""
        return self.size.parameters * self.itemsize - self.saved

    def reads(
        self, texts: Texts, *, batch: int | None, predicted: int = 0, depth: float = 1.0, models: int = 1
    ) -> Passes:
        """Texts are read, each once.

        Args:
            texts: with all their tokens.
            batch: texts at a time; None: as by default.
            predicted: positions whose logits are computed.
            depth: share of the blocks that are run.
            models: that read along.
        """
        size = self.size
        rows = rows_to_read(batch)
        rounds, chunks = math.ceil(len(texts) / rows), math.ceil(predicted / CHUNK)
        at_once = min(rows, len(texts)) * texts.longest
        return Passes(
            read=texts.tokens * models,
            operations=models * 2.0 * (size.body * depth * texts.tokens + size.unembedding * predicted) / READING,
            bytes=models * self.itemsize * float(rounds * depth * size.body + chunks * size.unembedding),
            blocks=models * rounds * depth * size.blocks,
            held=Memory(
                0.0,
                activations=self._activations(at_once),
                logits=min(CHUNK, predicted) * size.vocabulary * (self.itemsize + 4.0),
            ),
        )

    def rows_to_write(self, prompts: Texts, new: int, batch: int | None) -> int:
        """Prompts that are continued at a time: `batch`; None: as by default."""
        if batch is not None:
            return batch
        return rows_with_room(self.size, self.itemsize, len(prompts), prompts.longest, new)

    def writes(self, prompts: Texts, new: int, *, batch: int | None, drawn: bool = False, models: int = 1) -> Passes:
        """Prompts are continued.

        Args:
            prompts: one for each text.
            new: most tokens of a continuation.
            batch: texts at a time; None: as by default.
            drawn: whether tokens are sampled.
            models: that run along.
        """
        size = self.size
        most = self.rows_to_write(prompts, new, batch)
        rounds, rows = math.ceil(len(prompts) / most), min(most, len(prompts))
        tokens, written = prompts.tokens, len(prompts) * new
        cached = size.cache_bytes(self.itemsize)
        share = DRAWING if drawn else WRITING
        context = tokens + written / 2
        return Passes(
            read=tokens * models,
            written=written,
            operations=models * 2.0 * (size.body * (tokens + written) + size.unembedding * written) / share,
            bytes=models
            * (rounds * new * self.itemsize * float(size.body + size.unembedding) + new * context * cached),
            blocks=float(models * rounds * new * size.blocks),
            held=Memory(
                0.0,
                cache=models * rows * (prompts.longest + new) * cached,
                activations=self._activations(rows * prompts.longest),
                logits=rows * size.vocabulary * (self.itemsize + (12.0 if drawn else 4.0)),
            ),
        )

    def _activations(self, tokens: int) -> float:
        return tokens * self.size.activation_bytes(self.itemsize)


@dataclass(frozen=True)
class Stage:
    """One stage of a command."""

    name: str
    passes: tuple[Passes, ...] = ()
    steps: int = 0
    """Optimiser steps."""
    models: float = 1.0
    """Copies of the weights that are held."""
    held: Memory = field(default_factory=lambda: Memory(0.0))
    """Beside the weights, and what the passes hold."""
    disk: float = 0.0
    """Bytes that stay in the folder."""
    scratch: float = 0.0
    """Bytes in the folder that go when the stage is over."""
    moved: float = 0.0
    """Bytes that are read from a disk and written to one."""
    streamed: float = 0.0
    """Share of the bytes of its passes that are weights which come from files, whose size is `scratch`."""

    @property
    def read(self) -> int:
        """Tokens."""
        return sum(one.read for one in self.passes)

    @property
    def written(self) -> int:
        """Tokens, at most."""
        return sum(one.written for one in self.passes)

    def called(self, name: str) -> "Stage":
        """The same by another name."""
        return replace(self, name=name)

    def times(self, count: int, name: str) -> "Stage":
        """So many stages of this kind, told as one."""
        return replace(self, name=name, passes=tuple(one.times(count) for one in self.passes), disk=self.disk * count)

    def written_elsewhere(self) -> "Stage":
        """The same, its texts written by a server."""
        return replace(self, passes=tuple(one for one in self.passes if not one.written))

    def seconds_by(self, machine: Machine) -> dict[str, float]:
        """Limit → the seconds in which it is the limit."""
        found: dict[str, float] = dict.fromkeys((COMPUTE, BANDWIDTH, STARTS), 0.0)
        for one in self.passes:
            limit, seconds = max(one.seconds_by(machine).items(), key=lambda pair: pair[1])
            found[limit] += seconds
        found |= {DISK: self.moved / _DISK}
        streamed = self.streamed * sum(one.bytes for one in self.passes)
        if streamed and machine.gpu:
            found[LINK] = streamed / _LINK
        elif self.scratch > machine.memory:  # else they stay in memory once they are read
            found[DISK] += streamed / _DISK
        return found

    def memory(self, weights: float) -> Memory:
        """At the peak.

        Args:
            weights: bytes of one copy.
        """
        peak = max((one.held for one in self.passes), key=lambda held: held.total, default=Memory(0.0))
        whole = {name: here + peak.parts[name] for name, here in self.held.parts.items()}
        return Memory(
            **{
                **whole,
                "libraries": LIBRARIES + whole["libraries"],
                "weights": whole["weights"] + self.models * weights,
            }
        )


@dataclass(frozen=True)
class Less:
    """How a command would take less memory."""

    options: str
    """As they are typed."""
    memory: float
    """Bytes at the peak with them."""


@dataclass(frozen=True)
class Work:
    """All that a command does."""

    command: str
    model: str
    running: Running
    stages: tuple[Stage, ...]
    precision: torch.dtype = torch.bfloat16
    """Of its matrix products."""
    trains_all: bool = False
    """Whether all weights are trained."""
    notes: tuple[str, ...] = ()
    less: Less | None = None
    """None: no options are known for that."""

    @property
    def largest(self) -> Stage:
        """The stage that holds most."""
        return max(self.stages, key=lambda one: self.memory(one).total)

    @property
    def peak(self) -> Memory:
        """Of that stage."""
        return self.memory(self.largest)

    def memory(self, stage: Stage) -> Memory:
        """At the peak of a stage.

        Args:
            stage: one of its own.
        """
        found = stage.memory(self.running.weights)
        return replace(found, libraries=found.libraries + self.running.tokenizer)

    @property
    def disk(self) -> float:
        """Bytes that the folder takes at the end."""
        return sum(one.disk for one in self.stages)

    @property
    def scratch(self) -> float:
        """Bytes more while it is at work, at most."""
        return max((one.scratch for one in self.stages), default=0.0)

    def seconds(self, machine: Machine) -> float:
        """Of all stages."""
        return sum(sum(one.seconds_by(machine).values()) for one in self.stages)

    def bottleneck(self, machine: Machine) -> str:
        """Memory, where it does not fit; else what most of the time goes to."""
        if self.peak.total > machine.memory:
            return MEMORY
        by: dict[str, float] = {}
        for one in self.stages:
            for limit, seconds in one.seconds_by(machine).items():
                by[limit] = by.get(limit, 0.0) + seconds
        return max(by, key=lambda limit: by[limit])

    def to_json(self, machine: Machine) -> dict[str, Any]:
        """All of it as plain data: seconds and bytes."""
        rows: list[dict[str, Any]] = []
        for one in self.stages:
            by = one.seconds_by(machine)
            rows.append(
                {
                    "stage": one.name,
                    "read": one.read,
                    "written": one.written,
                    "steps": one.steps,
                    "seconds": sum(by.values()),
                    "memory": self.memory(one).total,
                    "disk": one.disk,
                    "bottleneck": max(by, key=lambda limit: by[limit]) if any(by.values()) else None,
                }
            )
        return {
            "command": self.command,
            "model": self.model,
            "machine": {
                "name": machine.name,
                "operations": machine.operations,
                "bandwidth": machine.bandwidth,
                "memory": machine.memory,
            },
            "stages": rows,
            "seconds": self.seconds(machine),
            "memory": {"total": self.peak.total, **self.peak.parts},
            "disk": self.disk,
            "disk_meanwhile": self.scratch,
            "bottleneck": self.bottleneck(machine),
            "notes": list(self.notes),
        }
