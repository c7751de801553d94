"""How a batch is shared by several processes, so that a step is the one that a single process makes.

A micro-batch is a process's own where there are enough of them, else several processes share one. Each pair and each
window of neutral text keeps the weight that it has when one process reads all: what is left over at the end of an
epoch is shared unevenly, and a process without a pair reads one that counts nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.processes.group import Processes
from dposcope.training.objective import Objective
from dposcope.training.schedule import Schedule


@dataclass(frozen=True)
class Share:
    """What one process reads of a round."""

    pairs: list[int]
    """At least one."""
    windows: list[int]
    pair_weight: float
    """Of each in the mean over its micro-batch; 0 where the process has none of its own."""
    window_weights: list[float]
    """Of each in the mean over all tokens of its micro-batch's windows: its share of them."""

    __repr__ = short_repr


@dataclass(frozen=True)
class Sharing:
    """A plan for all steps."""

    processes: Processes
    micro: int
    """Pairs of a micro-batch."""
    at_once: int
    """Micro-batches that all processes together read at a time: a round."""
    rounds: int
    """Of a step."""

    @classmethod
    def of(cls, schedule: Schedule, objective: Objective, processes: Processes) -> "Sharing":
        """Plan it.

        Raises:
            DposcopeError: a batch cannot be shared evenly by so many.
        """
        micro = schedule.micro_batch_size or schedule.batch_size
        there, count = schedule.batch_size // micro, processes.count
        at_once = min(there, count)
        each = count // at_once
        if there % at_once or count % at_once or micro % each:
            raise DposcopeError(
                f"a batch of {schedule.batch_size} pairs, {micro} at a time, cannot be shared by {count} processes; "
                f"choose a --batch-size and --micro-batch-size that {count} divides"
            )
        if each > 1 and objective.protocol == "reference":
            raise DposcopeError(
                "the reference protocol averages over padding, so a micro-batch cannot be shared by processes; "
                f"give --micro-batch-size {max(1, schedule.batch_size // count)}"
            )
        return cls(processes, micro, at_once, there // at_once)

    @property
    def pairs_at_once(self) -> int:
        """Pairs that all processes together read at a time."""
        return self.micro * self.at_once

    def micro_batches(self, indices: Sequence[int]) -> list[list[int]]:
        """A round's pairs, parted."""
        return [list(indices[start : start + self.micro]) for start in range(0, len(indices), self.micro)]

    def mine(self, parts: Sequence[Sequence[int]], windows: Sequence[Mapping[int, int]]) -> Share:
        """What this process reads of a round.

        Args:
            parts: from `micro_batches`.
            windows: those of each, with how many tokens each predicts.
        """
        each = self.processes.count // self.at_once
        number, place = divmod(self.processes.rank, each)
        if number >= len(parts):
            return Share([parts[0][0]], [], 0.0, [])
        part, drawn = parts[number], windows[number]
        mine, its_windows = list(part[place::each]), list(drawn)[place::each]
        return Share(
            mine or [part[0]],
            its_windows,
            1 / len(part) if mine else 0.0,
            [drawn[window] / sum(drawn.values()) for window in its_windows],
        )
