"""Several processes that a launcher (`torchrun`, `accelerate launch`) started as one job: its environment variables.

A scheduler or a container may set some of them where no launcher is at work. Then nobody answers, so that is refused.
"""

import os
from dataclasses import dataclass

from dposcope.errors import DposcopeError

_NEEDED = ("RANK", "MASTER_ADDR", "MASTER_PORT")
"""What every launcher sets beside the number of processes."""


@dataclass(frozen=True)
class Launched:
    """This process among those that were started together; by default it is alone."""

    count: int = 1
    """Of processes: the world size."""
    rank: int = 0
    """Of this process, from 0."""
    on_this_machine: int = 1
    """Processes on this machine."""

    @classmethod
    def here(cls) -> "Launched":
        """Read from the environment.

        Raises:
            DposcopeError: it names several processes, and not what they need to find each other.
        """
        count = world_size()
        if count == 1:
            return cls()
        missing = [name for name in _NEEDED if not os.environ.get(name)]
        if missing:
            raise DposcopeError(
                f"WORLD_SIZE is {count}, but {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set: "
                f"no launcher started this process; unset WORLD_SIZE, or start it with "
                f"torchrun --nproc-per-node {count} -m dposcope dpo …"
            )
        rank = _number("RANK") or 0
        if rank >= count:
            raise DposcopeError(f"RANK is {rank}, but WORLD_SIZE is {count}; give ranks from 0 to {count - 1}")
        _number("MASTER_PORT")
        return cls(count, rank, _number("LOCAL_WORLD_SIZE") or count)


def world_size() -> int:
    """How many processes the environment names; 1 where it names none.

    Raises:
        DposcopeError: it is no number.
    """
    return _number("WORLD_SIZE") or 1


def local_rank() -> int | None:
    """The number of this process on its machine, which is that of its GPU; None: no launcher tells.

    Raises:
        DposcopeError: it is no number.
    """
    return _number("LOCAL_RANK")


def _number(name: str) -> int | None:
    """A variable as a whole number; None: it is not set."""
    text = os.environ.get(name, "").strip()
    if not text:
        return None
    least = 1 if name.endswith("WORLD_SIZE") else 0
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise DposcopeError(f"{name} is {text!r}, which is no whole number from {least}; unset it, or set it again")
    return int(text)
