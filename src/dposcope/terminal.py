"""The one way out to a terminal: lines, tables and JSON. What is not ours is made inert here, see `foreign_text.py`.

Beside it only `cli/console.py` draws. `tests/test_terminal.py` sees to it that no other file writes to a stream.
"""

import codecs
import io
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from dposcope.errors import SmallerBatches
from dposcope.foreign_text import json_text, one_line, visible

out = Console(highlight=False, soft_wrap=False, markup=False, emoji=False)

_PLAIN: Final = {
    **{"×": "x", "·": ".", "–": "-", "—": "-", "−": "-", "…": "...", "→": "->", "←": "<-", "↑": "^", "↓": "v"},
    **{"“": '"', "”": '"', "‘": "'", "’": "'", "≤": "<=", "≥": ">=", "≠": "!=", "‖": "||", "°": " deg", "∞": "inf"},
    **{"α": "alpha", "β": "beta", "γ": "gamma", "κ": "kappa", "λ": "lambda", "σ": "sigma", "Δ": "delta", "Σ": "sum"},
    **{"†": "+", "‡": "++", "²": "^2", "␣": "_", "↵": "\\n", "⇥": "\\t", "␛": "\\x1b"},
}
"""What our own texts hold, for a terminal that has ASCII alone."""
_LENIENT: Final = "dposcope-lenient"


def say(line: str) -> None:
    """A line of the result."""
    out.print(Text(visible(line)), soft_wrap=True)


def cell(words: str) -> Text:
    """The content of a table's cell, title or heading; it breaks where the words do."""
    return Text("\n").join(Text(visible(line)) for line in words.split("\n"))


def say_on(piece: str) -> None:
    """A part of a result, as it comes; its line breaks are real ones."""
    sys.stdout.write("\n".join(visible(line) for line in piece.split("\n")))
    sys.stdout.flush()


def typed(prompt: str) -> Iterator[str]:
    """Lines that a person types, up to the end of the input. `prompt` stands before each.

    Lines of a pipe are repeated behind the prompt, so that what is printed can be read alone.
    """
    source = sys.stdin
    if source is None:  # pyright: ignore[reportUnnecessaryComparison] — closed by who started the program
        return
    if isinstance(source, io.TextIOWrapper):
        source.reconfigure(errors="replace")
    if not source.isatty():
        for line in source:
            say(f"{prompt}{line.rstrip()}")
            yield line
        return
    with suppress(ImportError):  # not on every system; with it, arrow keys work
        import readline  # noqa: F401  # pyright: ignore[reportUnusedImport]
    with suppress(EOFError):
        while True:
            yield input(prompt)
    say("")  # below the prompt


def print_json(value: Any) -> None:
    """A result for programs; in ASCII where the stream has no more."""
    text = json_text(value)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    sys.stdout.write(text + "\n")


def complain(message: str) -> None:
    """The line of an error."""
    sys.stderr.write(f"dposcope: {one_line(message)}\n")


def show_traceback(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
    """Where an error was raised and what it says, in the place of `sys.excepthook`."""
    told = "".join(traceback.format_exception(error))
    sys.stderr.write("".join(f"{visible(line)}\n" for line in told.splitlines()))


@contextmanager
def silent() -> Generator[None]:
    """Inside, nothing is written to either stream."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def beside_results() -> Generator[None]:
    """Inside, what somebody's code prints goes to standard error: standard output holds results alone."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def only_our_words() -> Generator[None]:
    """Inside, libraries say nothing on their own: no warning of theirs and no log message stands beside our lines."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _ours_alone
            yield
    finally:
        logging.disable(before)


def _ours_alone(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
    """Nobody hears a library's warning."""
    if issubclass(category, SmallerBatches):
        complain(str(message))


def lenient_streams() -> None:
    """Both streams write a character that they lack, as in a terminal of ASCII, as another one or as its escape."""
    codecs.register_error(_LENIENT, _instead)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # a pipe took the place of the stream's file
                stream.reconfigure(errors=_LENIENT)


def _instead(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(char) or char.encode("ascii", "backslashreplace").decode() for char in lacking), error.end
