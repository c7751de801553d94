"""Several processes that work as one, started as a launcher starts them."""

import socket
from collections.abc import Sequence
from pathlib import Path

from helpers.forked import Forked
from helpers.jobs import Told, process, script


def environments(count: int) -> list[dict[str, str]]:
    """What a launcher sets for each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    of_all = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [of_all | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def started(commands: Sequence[Sequence[object]]) -> list[Forked]:
    """The command line of each process; one alone is started without a launcher."""
    if len(commands) == 1:
        return [process(*commands[0])]
    return [process(*one, **own) for one, own in zip(commands, environments(len(commands)), strict=True)]


def commands_together(commands: Sequence[Sequence[object]]) -> list[Told]:
    """What each process of `started` said."""
    return ended(started(commands))


def command_together(count: int, *arguments: object) -> list[Told]:
    """The same command in all processes."""
    return commands_together([arguments] * count)


def script_together(count: int, path: Path, *arguments: object) -> list[Told]:
    """A program in all processes, where a warning is an error."""
    return ended([script(path, *arguments, **own) for own in environments(count)])


def ended(running: Sequence[Forked]) -> list[Told]:
    """What each said, once it has ended."""
    streams = [one.communicate() for one in running]
    return [Told(one.wait(), *told) for one, told in zip(running, streams, strict=True)]
