"""Several processes that work as one, started as a launcher starts them."""

import socket
from collections.abc import Sequence
from pathlib import Path

from helpers.forked import TESTS, Forked
from helpers.jobs import Told, script


def environments(count: int) -> list[dict[str, str]]:
    """What a launcher sets for each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    of_all = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [of_all | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def commands_together(folder: Path, commands: Sequence[Sequence[object]]) -> list[Told]:
    """What the command line of each process said; only the first one may change `folder`.

    One alone is started without a launcher.
    """
    return ended(begin_together(folder, commands))


def begin_together(folder: Path, commands: Sequence[Sequence[object]]) -> list[Forked]:
    """The processes of `commands_together` while they run."""
    several = environments(len(commands)) if len(commands) > 1 else [{}]
    program = TESTS / "helpers/one_of_several.py"
    # Warnings of libraries are no errors here: a command says nothing of them.
    return [script(program, folder, *one, ignored=[""], **own) for one, own in zip(commands, several, strict=True)]


def command_together(count: int, folder: Path, *arguments: object) -> list[Told]:
    """The same command in all processes."""
    return commands_together(folder, [arguments] * count)


def script_together(count: int, path: Path, *arguments: object) -> list[Told]:
    """A program in all processes, where a warning is an error."""
    return ended([script(path, *arguments, **own) for own in environments(count)])


def ended(running: Sequence[Forked]) -> list[Told]:
    """What each said, once it has ended."""
    streams = [one.communicate() for one in running]
    return [Told(one.wait(), *told) for one, told in zip(running, streams, strict=True)]
