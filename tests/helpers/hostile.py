"""What every case of `tests/hostile/` must show: the command line refuses it in one short line and leaves nothing."""

import contextlib
import io
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers.jobs import contents

LONGEST = 2000
"""Characters of a line that a person still reads."""


class HangError(BaseException):
    """A command took too long. No `except Exception` may keep it."""


def refused(arguments: Sequence[object], *, within: float = 20) -> str:
    """Run the command line in this process, and check that it refuses as it should.

    It ends with code 2. It says one line on the error stream: no longer than `LONGEST`, without control characters or
    a traceback. It prints nothing else. Where `--out` points is as before, and so are the names beside it.

    Args:
        arguments: of the command line.
        within: seconds that it may take.

    Returns:
        The line, without `dposcope: ` before it.
    """
    from dposcope.cli import main

    given = [str(argument) for argument in arguments]
    before = _left(given)
    out, err = io.StringIO(), io.StringIO()
    code: object = "no exit at all"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _limited(within):
        try:
            main(given)
        except SystemExit as stop:
            code = stop.code
    said = err.getvalue()
    assert code == 2, f"ended with {code}: {said[-LONGEST:]}"
    assert out.getvalue() == ""
    assert said.startswith("dposcope: "), said[-LONGEST:]
    assert "Traceback" not in said
    assert said.count("\n") == 1, said[-LONGEST:]
    assert said.endswith("\n")
    line = said[:-1]
    assert len(line) <= LONGEST, f"{len(line):,} characters: {line[:LONGEST]}"
    assert line.isprintable(), repr(line)
    assert _left(given) == before
    return line.removeprefix("dposcope: ")


def _left(arguments: Sequence[str]) -> tuple[list[str], dict[str, bytes]] | None:
    """What lies beside and below `--out`."""
    if "--out" not in arguments:
        return None
    out = Path(arguments[list(arguments).index("--out") + 1])
    beside = sorted(file.name for file in out.parent.iterdir()) if out.parent.is_dir() else []
    return beside, contents(out) if out.is_dir() else {}


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    began = time.monotonic()

    def stop(*_: object) -> None:
        raise HangError(f"still at work after {time.monotonic() - began:.0f} seconds")

    earlier = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
