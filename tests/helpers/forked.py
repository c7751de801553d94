"""Commands as processes of their own, without the seconds that an import takes.

`forked_server.py` imports everything once; every command is a fork of it, with its own output, folder and environment.
It is as light as this process is when it starts one, see `light.py`.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from helpers.light import lightness

TESTS = Path(__file__).parents[1]


class Forked:
    """A command that runs; used as `subprocess.Popen` is."""

    def __init__(
        self,
        order: dict[str, Any],
        *,
        terminal: int | None = None,
        person: bool = False,
        born_with: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """`terminal` is a file descriptor that takes the place of the error stream.

        With `person` it is the program's own terminal: in the place of all three streams, and its Ctrl-C arrives.

        `born_with` are variables that libraries read as they are imported.
        """
        self._folder = tempfile.TemporaryDirectory()
        self.returncode: int | None = None
        reading, writing = os.pipe()
        self._told = os.fdopen(reading)
        asked = json.dumps({"light": lightness(), "person": person, **order}).encode()
        with self._stream("out").open("w") as out, self._stream("err").open("w") as err:
            socket.send_fds(_server(born_with), [asked], [out.fileno(), terminal or err.fileno(), writing])
        os.close(writing)
        self.pid = int(self._told.readline())

    def _stream(self, name: str) -> Path:
        return Path(self._folder.name) / name

    def poll(self) -> int | None:
        """The exit code, negative for a signal, or None while it runs."""
        if self.returncode is None and select.select([self._told], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode

    def communicate(self) -> tuple[str, str]:
        """Both streams, once it has ended."""
        self.wait()
        with self._folder:
            return self._stream("out").read_text(), self._stream("err").read_text()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> "Forked":
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()
        self._folder.cleanup()


@cache
def _server(born_with: tuple[tuple[str, str], ...]) -> socket.socket:
    """Started with the first command of this process that is born with these, ended with it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        started = subprocess.Popen(
            [sys.executable, "-m", "helpers.forked_server"], env=environment(**dict(born_with)), stdin=theirs
        )

    def stop() -> None:
        ours.close()
        started.wait()

    atexit.register(stop)
    return ours


def environment(**more: str) -> dict[str, str]:
    """Of a process that finds the modules of this folder."""
    path = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **more}
