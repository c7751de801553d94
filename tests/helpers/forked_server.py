"""Run as a process of its own by `forked.py`: starts `dposcope` in forks, also killed, short of disk space, or refused.

This process imports everything once and forks a child for every command; the child is what dies. An audit hook ends
it with SIGKILL, which no `finally` survives, at the n-th time that it is about to change the file system. What
children write to the error stream is caught below Python, so that libraries' own lines count too.
"""

import contextlib
import fcntl
import gc
import json
import os
import resource
import runpy
import signal
import socket
import sys
import termios
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from helpers.light import light

NETWORK = ("socket.", "urllib.", "http.client.", "ftplib.", "smtplib.")
"""How events of the network begin."""
FORBIDDEN = 77
"""Exit code of a command that reached for the network."""
PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.startfile"}
CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "shutil.move", "tempfile.mkstemp"}


def _changes_files(event: str, arguments: tuple) -> bool:
    if event == "open" and isinstance(arguments[0], str | bytes):
        flags = arguments[2]
        return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) and not str(arguments[0]).startswith("/dev/")
    return event in CHANGES


def settle_threads() -> None:
    """To be called first in a forked child: torch replaces the pool of threads that the fork broke.

    It does so at its first use, which is not safe from several threads at once, as in loading a checkpoint: "Invalid
    thread pool!".
    """
    torch.set_num_threads(torch.get_num_threads())


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

            settle_threads()
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


def forbid_network() -> None:
    """From now on a socket, a look-up of a name and the start of another program are told, and end this process.

    But for what measures coverage: it names its file after the machine.
    """

    def hook(event: str, arguments: tuple) -> None:
        if event == "socket.gethostname" and Path(sys._getframe(1).f_code.co_filename).parent.name == "coverage":
            return
        if event.startswith(NETWORK) or event in PROGRAMS:
            os.write(2, f"forbidden: {event} {arguments}\n".encode(errors="replace"))
            os._exit(FORBIDDEN)  # an error would be tried again, or caught

    sys.addaudithook(hook)


def unconnected(commands: list[list[str]], cwd: str) -> list[dict]:
    """Each command once, one after another, in a folder, without a network."""
    os.chdir(cwd)
    return [in_child(arguments, before=forbid_network) for arguments in commands]


def command(arguments: list[str], cwd: str | None, environment: dict[str, str]) -> int:
    """The command line in this process; its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which what runs the tests may have had ignored
    os.environ.update(environment)
    if cwd is not None:
        os.chdir(cwd)
    from dposcope.cli import main

    try:
        main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def script(path: str, arguments: list[str], environment: dict[str, str], ignored: list[str]) -> int:
    """A program's file in this process, where a warning is an error unless its message begins with one of `ignored`."""
    os.environ.update(environment)
    warnings.simplefilter("error")
    for message in ignored:
        warnings.filterwarnings("ignore", message)
    sys.argv = [path, *arguments]
    sys.path.append(str(Path(path).parent))
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def crashes(what: str, options: dict[str, Any]) -> int:
    """Several tries, told as JSON."""
    ways = {"killed": killed_until_done, "space": without_space, "refused": refused, "unconnected": unconnected}
    tries = ways[what](**options)
    sys.stdout.write(json.dumps(tries))
    return 0


def own_terminal(handle: int) -> None:
    """Take a terminal for this process's own, and for its three streams, as a program does that a person starts."""
    os.setsid()
    fcntl.ioctl(handle, termios.TIOCSCTTY, 0)
    for stream in range(3):
        os.dup2(handle, stream)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 — till the end


def serve(order: dict[str, Any], streams: list[int]) -> None:
    """Run one order in a child, with `streams` for its output; its pid and its exit code are told on the last."""
    out, err, told = streams
    child = os.fork()
    if child == 0:
        os.close(told)
        if order["person"]:
            own_terminal(err)
        else:
            os.dup2(out, 1)
            os.dup2(err, 2)
        code = 70
        try:
            settle_threads()
            with light(order["light"]) if order["light"] else contextlib.nullcontext():
                code = {"command": command, "script": script, "crashes": crashes}[order["run"]](**order["with"])
        except BaseException:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    os.write(told, f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    os.write(told, f"{os.waitstatus_to_exitcode(status)}\n".encode())


def main() -> None:
    """Serve what comes through the socket that is this process's input, until its other end is closed."""
    with socket.socket(fileno=os.dup(0)) as asked:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        while True:
            order, streams, _, _ = socket.recv_fds(asked, 1 << 18, 3)
            if not order:
                return
            if os.fork() == 0:  # one that waits for the command, as this process goes on to the next
                asked.close()
                serve(json.loads(order), streams)
                os._exit(0)
            for stream in streams:
                os.close(stream)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    os.fsync = lambda _file: None  # as in conftest.py
    # Everything that a child would otherwise import and build again.
    import optuna  # noqa: F401
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    import dposcope.cli.console
    import dposcope.cli.shown.ahead
    import dposcope.cli.shown.ends
    import dposcope.jobs.dpo.job
    import dposcope.jobs.edit.job
    import dposcope.jobs.evaluate.job
    import dposcope.jobs.explain.job
    import dposcope.jobs.pairs.job
    import dposcope.jobs.reproduce.job
    import dposcope.jobs.tune.job
    import dposcope.model.checks.layout_file
    import dposcope.shipping.ship  # noqa: F401
    import helpers.jobs  # noqa: F401
    from dposcope.jobs.named_files import code_digest

    get_checkpoint_conversion_mapping("llama")
    code_digest()

    gc.freeze()  # children need not look for garbage among modules, nor copy their pages to do so
    main()
