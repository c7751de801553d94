"""How the program ends: its exit codes, the one line that it says when it fails, and `--debug`."""

import os
import sys
from contextlib import suppress
from difflib import get_close_matches
from typing import Final, NoReturn

import cyclopts
from pydantic import ValidationError

from dposcope.cli.shown.help import HELP, HELP_ALL
from dposcope.errors import INTERRUPTED as INTERRUPTION
from dposcope.errors import DposcopeError, first_line, is_memory
from dposcope.jobs.renamed import other_name
from dposcope.processes.launcher import Launched
from dposcope.terminal import complain, show_traceback

REFUSED: Final = 2
"""Bad input, or a job that cannot be done; also where the reader of the output has gone."""
UNFORESEEN: Final = 70
"""An error of the program itself."""
INTERRUPTED: Final = 130
"""By Ctrl-C."""

DEBUG: Final = "DPOSCOPE_DEBUG"
"""An environment variable: any value but 0 is like `--debug`, for a program that is started by another one."""


def debugging() -> bool:
    """Whether the environment asks for tracebacks."""
    return os.environ.get(DEBUG, "0") not in ("", "0")


def fail(error: BaseException, *, debug: bool) -> NoReturn:
    """Say why, in one line, and exit.

    Args:
        error: what ended the command.
        debug: show its traceback first.
    """
    line, code = _told(error)
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("\n")  # below the ^C of a terminal
    if code == INTERRUPTED or _tells():
        if debug:
            show_traceback(type(error), error, error.__traceback__)
        complain(line)
    # Python dies of SIGINT at its end if the exception passed through an `exec` on its way; another one makes it forget
    # that.
    exec("")
    # At exit the interpreter would flush standard output, which fails on a closed pipe.
    if sys.stdout.closed:
        os._exit(code)
    sys.exit(code)


def leave(code: int) -> NoReturn:
    """End at once with an exit code: threads go no further, and the interpreter tidies nothing up."""
    with suppress(OSError, ValueError):  # nobody reads any more
        sys.stdout.flush()
    os._exit(code)


def _tells() -> bool:
    """If several processes fail, only rank zero prints the reason."""
    try:
        return Launched.here().rank == 0
    except DposcopeError:  # no launcher started them
        return True


def _told(error: BaseException) -> tuple[str, int]:
    """What is said of an error, and the exit code."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTION, INTERRUPTED
    if is_memory(error):
        return (
            f"not enough memory ({first_line(error)}); close other programs, take a smaller model or fewer data, lower "
            "--batch-size where the command has it, or use a machine with more memory",
            REFUSED,
        )
    if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
        where = f" {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}; check the path and the free space", REFUSED
    if isinstance(error, DposcopeError | cyclopts.CycloptsError | OSError):
        return _refusal(error), REFUSED
    return (
        f"internal error: {type(error).__name__}: {first_line(error)}; please report it, with what the same command "
        "prints with --debug",
        UNFORESEEN,
    )


def _refusal(error: Exception) -> str:
    if isinstance(error, cyclopts.UnknownOptionError):
        return _renamed(error) or _unknown(error)
    if type(error) is cyclopts.MissingArgumentError:  # those below it say more
        return _missing(error)
    if isinstance(error, cyclopts.UnusedCliTokensError):
        return _left_over(error)
    cause = error.__cause__
    if not isinstance(cause, ValidationError) or isinstance(error, DposcopeError):
        return str(error)
    first = cause.errors()[0]
    # The number of a value among several says nothing to a person.
    option = ".".join(part.replace("_", "-") for part in first["loc"] if isinstance(part, str))
    reason = first["msg"].removeprefix("Value error, ")
    return f"--{option}: {reason[0].lower()}{reason[1:]}, not {first['input']}" if option else reason


def _left_over(error: cyclopts.UnusedCliTokensError) -> str:
    left = " ".join(error.unused_tokens or ())
    command = " ".join(error.command_chain or ())
    return (
        f"{command} does not take: {left}; name an option again for each further value, and quote a text that has "
        "spaces in it"
    )


def _missing(error: cyclopts.MissingArgumentError) -> str:
    """What the command cannot do without, or an option whose value is missing."""
    command, argument = " ".join(error.command_chain or ()), error.argument
    assert argument is not None
    given = error.keyword or next((token.keyword for token in argument.tokens if token.keyword), None)
    page = f"see dposcope {command} {HELP}"
    if given is not None:
        return f"{given} requires an argument; {page}"
    options = [one for one in error.unused_tokens or () if one.startswith("--")]
    near = get_close_matches(argument.name, options, n=1) if argument.name.startswith("--") else []
    instead = f"write {argument.name} instead of {near[0]}, or " if near else ""
    return f"{command} requires an argument that is missing, {argument.name}; {instead}{page}"


def _renamed(error: cyclopts.UnknownOptionError) -> str | None:
    """Where the command has the option by another name: that name."""
    command, written = " ".join(error.command_chain or ()), _written(error)
    other = other_name(written, (command,))
    where = "" if error.token.source == "cli" else f" (from {error.token.source})"
    return None if other is None else f"{command} has no option {written}{where}; give {other}"


def _unknown(error: cyclopts.UnknownOptionError) -> str:
    """With the option that looks most like it, if one does, and the page that lists all."""
    written = _written(error)
    where = "" if error.token.source == "cli" else f" from {error.token.source}"
    if "][" in written:
        return f'Unknown option: "[{written}]"{where}; the file takes no tables: write one name = value per line'
    named = {name.lstrip("-"): name for one in error.argument_collection if one.parse for name in one.names}
    # Without the dashes: all options share them, so that any two short ones look alike.
    near = get_close_matches(written.lstrip("-").replace("_", "-"), named, n=1)
    meant = f"did you mean {named[near[0]] if written.startswith('-') else near[0]}? " if near else ""
    page = " ".join(("dposcope", *(error.command_chain or ()), HELP_ALL if error.command_chain else HELP))
    return f"Unknown option: {written}{where}; {meant}{page} lists all options"


def _written(error: cyclopts.UnknownOptionError) -> str:
    """The option as it was written, without its value."""
    written = error.token.keyword or error.token.value
    return written.strip("[]").partition("=")[0]  # in brackets if a file names it
