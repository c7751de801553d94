"""The program: its commands, settings files and error messages.

Commands import heavy modules only when they run, so that `--help` is fast.
"""

import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from functools import reduce
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict

from dposcope.cli.directions import lens, probe
from dposcope.cli.dpo import dpo
from dposcope.cli.edit import edit
from dposcope.cli.evaluate import evaluate
from dposcope.cli.explain import explain
from dposcope.cli.failure import debugging, fail
from dposcope.cli.fold import fold
from dposcope.cli.machine.allocator import keep_freed_memory
from dposcope.cli.machine.processes import one_of_several
from dposcope.cli.machine.threads import share_cores
from dposcope.cli.models import app as models
from dposcope.cli.pairs import app as pairs
from dposcope.cli.reproduce import report, reproduce
from dposcope.cli.shown.help import set_help
from dposcope.cli.talk.chat import chat
from dposcope.cli.talk.generate import generate
from dposcope.cli.talk.serve import serve
from dposcope.cli.tune import tune
from dposcope.data.trust import check_settings, trusting_files
from dposcope.errors import DposcopeError
from dposcope.files import MOST_SETTINGS
from dposcope.reading import read_object, read_toml
from dposcope.terminal import lenient_streams, only_our_words

_EPILOGUE = """\
First steps:

    dposcope edit gemma-3-270m --out runs/first      an edited model and a report, from built-in data

    dposcope edit MODEL --prompts F --comments F --out DIR      the same from your own data

Settings may also be in a file: dposcope edit MODEL --out DIR --config settings.toml (or .json), with one
`name = value` per line and the names of the options. Every command also takes two options: --debug (or the
environment variable DPOSCOPE_DEBUG=1) shows the traceback of an error; --trust-code lets a concept spec, a preset or a
settings file name a function as scorer (`module:function`), which is code that runs, or a server as token judge, which
is sent your key.

Exit codes: 0 done; 2 bad input, or a job that cannot be done; 70 an error of the program itself; 130 interrupted."""

app = App(
    name="dposcope",
    help="See what preference tuning did to a language model, neuron by neuron. Get part of its effect without "
    "training, and most of it by training one number per neuron.",
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
app.command(generate)
app.command(chat)
app.command(serve)
app.command(fold)
app.command(report)
app.command(probe)
app.command(lens)
app.command(models)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and exit; see `dposcope.cli.failure` for the codes."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    debug, trusting = "--debug" in tokens or debugging(), "--trust-code" in tokens
    tokens = [token for token in tokens if token not in ("--debug", "--trust-code")]
    lenient_streams()
    try:
        with (
            _interruptible(),
            nullcontext() if debug else only_our_words(),
            trusting_files() if trusting else nullcontext(),
        ):
            _run(tokens)
    except SystemExit:
        raise
    except BaseException as error:  # the last resort: libraries raise what is no Exception, too
        fail(error, debug=debug)


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
    _check_out(tokens)
    tokens = _read_config(tokens)
    share_cores()
    keep_freed_memory()
    with one_of_several(tokens):
        tokens = set_help(app, tokens, _EPILOGUE)
        app(tokens, exit_on_error=False, print_error=False)


def _check_out(tokens: list[str]) -> None:
    """Refuse an empty `--out`, such as of an unset variable: as a path it would be the working folder."""
    if "--out=" in tokens or ("--out", "") in pairwise(tokens):
        raise DposcopeError("--out is empty; name a folder")


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


def _under(settings: dict[str, Any], command: str) -> dict[str, Any]:
    return {command: settings}


def _settings_in(name: str) -> Callable[[App, tuple[str, ...], ArgumentCollection], None]:
    """The settings in a file, before any of them is checked."""
    path = Path(name)
    if not name or not path.exists():
        raise DposcopeError(f"there is no settings file {name!r}; --config takes a .toml or .json file")
    mend = "write one option with its value per line"
    match path.suffix:
        case ".toml":
            settings = read_toml(path, mend=mend)
        case ".json":
            settings = read_object(path, mend=mend, most=MOST_SETTINGS)
        case _:
            raise DposcopeError(f"{path} is neither .toml nor .json; --config reads those two")
    check_settings(settings, path)

    def given(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        # Under the command's own name: of a flat file, cyclopts drops every option that is called like a command.
        nested = reduce(_under, reversed(commands), settings)
        Dict(nested, source=str(path.absolute()))(app, commands, arguments)

    return given
