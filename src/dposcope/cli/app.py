"""The program: its commands, settings files and error messages.

Commands import heavy modules only when they run, so that `--help` is fast.
"""

import json
import os
import signal
import sys
import threading
import tomllib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, cast

import cyclopts
from cyclopts import App
from cyclopts.config import Dict
from pydantic import ValidationError

from dposcope.cli.allocator import keep_freed_memory
from dposcope.cli.directions import lens, probe
from dposcope.cli.dpo import dpo
from dposcope.cli.edit import edit
from dposcope.cli.evaluate import evaluate
from dposcope.cli.explain import explain
from dposcope.cli.fold import fold
from dposcope.cli.models import app as models
from dposcope.cli.pairs import app as pairs
from dposcope.cli.reproduce import report, reproduce
from dposcope.cli.tune import tune
from dposcope.data.trust import check_settings, trusting_files
from dposcope.errors import INTERRUPTED, DposcopeError
from dposcope.files import MOST_SETTINGS, read_regular
from dposcope.launcher import Launched, world_size
from dposcope.terminal import complain, lenient_streams, only_our_words, show_traceback

_EPILOGUE = """\
First steps:

    dposcope edit gemma-3-270m --out runs/first      an edited model and a report, from built-in data

    dposcope edit MODEL --prompts F --comments F --out DIR      the same from your own data

Settings may also be in a file: dposcope edit MODEL --out DIR --config settings.toml (or .json), with one
`name = value` per line and the names of the options. --debug shows the traceback of an error. --trust-code lets a
concept spec, a preset or a settings file name a function as scorer (`module:function`), which is code that runs, or a
server as token judge, which is sent your key."""

app = App(
    name="dposcope",
    help="See what preference tuning did to a language model, neuron by neuron. Get part of its effect without "
    "training, and most of it by training one number per neuron.",
    help_epilogue=_EPILOGUE,
    help_format="markdown",
    version_flags=["--version"],
    suppress_keyboard_interrupt=False,
)
app.command(reproduce)
app.command(edit)
app.command(tune)
app.command(evaluate)
app.command(explain)
app.command(pairs)
app.command(dpo)
app.command(fold)
app.command(report)
app.command(probe)
app.command(lens)
app.command(models)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and exit: 0 done, 2 bad input or a job that cannot be done, 130 interrupted."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug, trusting = "--debug" in tokens, "--trust-code" in tokens
    tokens = [token for token in tokens if token not in ("--debug", "--trust-code")]
    lenient_streams()
    if debug:
        sys.excepthook = show_traceback
    try:
        with (
            _interruptible(),
            nullcontext() if debug else only_our_words(),
            trusting_files() if trusting else nullcontext(),
        ):
            _run(tokens)
    except (DposcopeError, cyclopts.CycloptsError, OSError) as error:
        if debug:
            raise
        _fail(_one_line(error))
    except KeyboardInterrupt:
        sys.stderr.write("\n")  # below the ^C of a terminal
        complain(INTERRUPTED)
        # Python dies of SIGINT at its end if the exception passed through an `exec` on its way; another one makes it
        # forget that.
        exec("")
        sys.exit(130)


@contextmanager
def _interruptible() -> Generator[None]:
    """Ctrl-C inside becomes KeyboardInterrupt, whatever a library makes of it, such as a failed import."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, press)
    try:
        yield
    except Exception as error:
        if pressed:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, usual)


def _run(tokens: list[str]) -> None:
    tokens = _read_config(tokens)
    if tokens[:1] != ["dpo"] and world_size() > 1:
        raise DposcopeError(
            "only the command dpo runs in several processes; start this one without torchrun or accelerate, or unset "
            "WORLD_SIZE"
        )
    keep_freed_memory()
    app(tokens, exit_on_error=False, print_error=False)


def _read_config(tokens: list[str]) -> list[str]:
    """Remove `--config FILE` from the command line and load its settings. Flags have priority."""
    for place, token in enumerate(tokens):
        if token == "--config" or token.startswith("--config="):
            inline = token.partition("=")[2]
            name = inline or (tokens[place + 1] if place + 1 < len(tokens) else "")
            app.config = [_settings_in(name)]
            return tokens[:place] + tokens[place + (1 if inline else 2) :]
    app.config = []
    return tokens


def _settings_in(name: str) -> Dict:
    """The settings in a file, before any of them is checked."""
    path = Path(name)
    try:
        data = read_regular(path, most=MOST_SETTINGS) if name else None
    except FileNotFoundError:
        data = None
    if data is None:
        raise DposcopeError(f"there is no settings file {name!r}; --config takes a .toml or .json file")
    readers: dict[str, Callable[[str], Any]] = {".toml": tomllib.loads, ".json": json.loads}
    if path.suffix not in readers:
        raise DposcopeError(f"{path} is neither .toml nor .json; --config reads those two")
    try:
        held = readers[path.suffix](data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DposcopeError(f"{path} is not {path.suffix[1:].upper()} ({error}); correct it there") from error
    if not isinstance(held, dict):
        raise DposcopeError(f'{path} is JSON but not an object; write its settings as {{"name": value, …}}')
    settings = cast(dict[str, Any], held)
    check_settings(settings, path)
    return Dict(settings, source=str(path.absolute()), use_commands_as_keys=False)


def _one_line(error: Exception) -> str:
    cause = error.__cause__
    if isinstance(error, cyclopts.CycloptsError) and isinstance(cause, ValidationError):
        first = cause.errors()[0]
        option = ".".join(str(part).replace("_", "-") for part in first["loc"])
        reason = first["msg"].removeprefix("Value error, ")
        given = f", not {first['input']}" if option else ""
        return f"--{option}: {reason[0].lower()}{reason[1:]}{given}" if option else reason
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        where = f" {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}; check the path and the free space"
    return " ".join(str(error).split())


def _fail(message: str) -> None:
    if _tells():
        complain(message)
    # At exit the interpreter would flush standard output, which fails on a closed pipe.
    if sys.stdout.closed:
        os._exit(2)
    sys.exit(2)


def _tells() -> bool:
    """If several processes fail, only rank zero prints the reason."""
    try:
        return Launched.here().rank == 0
    except DposcopeError:  # no launcher started them
        return True
