"""One of several processes that share work: `python -m helpers.shared_work CASE` says as JSON what came of it."""

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dposcope.errors import DposcopeError, is_memory
from dposcope.memory import halving_batches
from dposcope.processes.group import Processes
from dposcope.processes.shared import once, shared, summed, together, unshared

ITEMS = [1e16, 1.0, -1e16, 3.0, 1e-3, 7.0, -0.1]
"""A sum of them depends on the order."""


@dataclass
class Total:
    """Adds numbers as they come."""

    value: float = 0.0

    def add(self, number: float) -> None:
        """One more."""
        self.value += number


@dataclass
class Kept:
    """Numbers for later."""

    numbers: list[float] = field(default_factory=list)

    def add(self, number: float) -> None:
        """One more."""
        self.numbers.append(number)

    def add_to(self, total: Total) -> None:
        """In their order."""
        for number in self.numbers:
            total.add(number)


def results(rank: int) -> dict[str, Any]:
    """Of work that succeeds."""
    own: list[int] = []
    seen: list[int] = []

    def square(item: int) -> int:
        own.append(item)
        return item * item

    def add(item: float, total: Total | Kept) -> None:
        total.add(item / 3)
        total.add(item)

    squares = [shared(range(count), square) for count in (0, 1, 3, 6)]
    shared(range(5), square, done=seen.append)
    return {
        "squares": squares,
        "own": own,
        "done": seen,
        "sums": [summed(ITEMS[:count], add, Total(), keep=Kept).value for count in range(1, len(ITEMS) + 1)],
        "once": once(lambda: f"from {rank}"),
        "nested": shared([3, 4], lambda count: shared(range(count), lambda item: item)),
        "unshared": _unshared(),
    }


def _unshared() -> int:
    with unshared():
        return len(shared(range(5), lambda item: item))


def one_fails(rank: int) -> dict[str, Any]:
    """An item that cannot be worked on; all hear of it, and go on together."""
    try:
        shared(range(4), lambda item: _fail(DposcopeError("item 1 is bad; mend it")) if item == 1 else item)
    except DposcopeError as error:
        return {"told": str(error), "after": shared([1, 2], lambda item: item + rank - rank)}
    return {}


def too_large(rank: int) -> dict[str, Any]:
    """Batches that are too large for one of the processes are made smaller in all."""
    sizes: list[int] = []

    @halving_batches
    def work(*, batch_size: int = 8) -> list[int]:
        sizes.append(batch_size)
        places = range(0, 16, batch_size)
        return shared(places, lambda place: _fail(MemoryError("full")) if rank == 1 and batch_size > 2 else place)

    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {"made": work(), "sizes": sizes}


def one_leaves(rank: int) -> dict[str, Any]:
    """A process that fails where the others share work."""
    if rank == 1:
        raise DposcopeError("the disk is full; free some space")
    return {"made": shared(range(4), lambda item: item)}


def one_errs(rank: int) -> dict[str, Any]:
    """The same with an error of the program."""
    if rank == 1:
        raise KeyError("lost")
    return {"made": once(lambda: 3)}


def one_dies(rank: int) -> dict[str, Any]:
    """A process that is killed."""
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"made": shared(range(4), lambda item: item)}


def _fail(error: Exception) -> Any:
    raise error


CASES: dict[str, Callable[[int], dict[str, Any]]] = {
    case.__name__: case for case in (results, one_fails, too_large, one_leaves, one_errs, one_dies)
}


def main() -> None:
    """Run a case; what ends it is told, too."""
    processes = Processes.joined("cpu")
    try:
        with together(processes):
            told = CASES[sys.argv[1]](processes.rank)
    except Exception as error:
        told = {"ended": f"{type(error).__name__}: {error}", "memory": is_memory(error)}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main()
