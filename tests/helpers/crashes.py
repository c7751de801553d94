"""Run as a process of its own: starts `dposcope` over and over, killed, short of disk space, or wrongly called.

One process imports everything once and forks a child for every try; the child is what dies. An audit hook ends
it with SIGKILL, which no `finally` survives, at the n-th time that it is about to change the file system. What
children write to the error stream is caught below Python, so that libraries' own lines count too.
"""

import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "shutil.move", "tempfile.mkstemp"}


def _changes_files(event: str, arguments: tuple) -> bool:
    if event == "open" and isinstance(arguments[0], str | bytes):
        flags = arguments[2]
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and not str(arguments[0]).startswith("/dev/")
    return event in CHANGES


def kill_at(change: int) -> None:
    """End this process with SIGKILL before its `change`-th change of the file system, counted from 1."""
    seen = 0

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        if _changes_files(event, arguments):
            seen += 1
            if seen == change:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def in_child(arguments: list[str], *, before: Callable[[], None] = lambda: None) -> dict:
    """One try in a forked child: exit code (negative: the signal), and all that reached the error stream."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.dup2(writing, 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 70
        try:
            from dposcope.cli import main

            before()
            main(arguments)
        except SystemExit as stop:
            code = int(stop.code or 0)
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        told = stream.read().decode()
    _, status = os.waitpid(child, 0)
    return {"code": os.waitstatus_to_exitcode(status), "err": told}


def refused(commands: list[list[str]]) -> list[dict]:
    """Each command once."""
    return [in_child(arguments) for arguments in commands]


def killed_until_done(arguments: list[str], changes: list[int]) -> list[dict]:
    """Start again and again, the i-th time killed at `changes[i]`; at last undisturbed."""
    tries = []
    for change in [*changes, None]:
        tries.append(in_child(arguments, before=lambda change=change: None if change is None else kill_at(change)))
        if tries[-1]["code"] == 0:
            break
    return tries


def without_space(arguments: list[str], limits: list[int], out: str) -> list[dict]:
    """One try per limit in bytes on the size of any file, in the same folder; what was left after each."""
    tries = []
    for limit in limits:

        def shrink(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        told = in_child(arguments, before=shrink)
        left = [str(path.relative_to(out)) for path in sorted(Path(out).rglob("*"))]
        tries.append({"limit": limit, **told, "left": left})
    return tries


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    import dposcope.jobs.dpo.job  # everything that a child would otherwise import again
    import dposcope.jobs.edit.job
    import dposcope.jobs.evaluate.job  # noqa: F401

    order = json.loads(sys.argv[1])
    results = {"killed": killed_until_done, "space": without_space, "refused": refused}[order["what"]](**order["with"])
    print(json.dumps(results))  # noqa: T201
