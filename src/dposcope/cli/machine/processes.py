"""A command that a launcher started in several processes: which commands take that, and who speaks."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Final

from dposcope.errors import DposcopeError
from dposcope.processes.launcher import world_size
from dposcope.terminal import silent

_SHARE: Final = ("dpo", "edit", "evaluate", "explain", "pairs", "tune")
"""Commands that work in several processes."""
_ALONE: Final = ("check", "import")
"""Their subcommands that do not."""


@contextmanager
def one_of_several(tokens: Sequence[str]) -> Generator[None]:
    """Around a command: of several processes, only the first one speaks, and all take leave of each other at the end.

    Args:
        tokens: the command line.

    Raises:
        DposcopeError: the command works in one process alone.
    """
    if world_size() == 1:
        yield
        return
    if not tokens or tokens[0] not in _SHARE or any(token in _ALONE for token in tokens[1:2]):
        *others, last = _SHARE
        raise DposcopeError(
            f"of all commands {', '.join(others)} and {last} run in several processes; start this one without torchrun "
            "or accelerate, or unset WORLD_SIZE"
        )
    from dposcope.processes.group import Processes
    from dposcope.processes.shared import together

    processes = Processes.here()
    with nullcontext() if processes.is_main else silent(), together(processes):
        yield
    processes.leave()
