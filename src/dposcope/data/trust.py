"""Code that a file names. A concept spec, a preset or a settings file may come from a stranger, and a scorer written
`module:function` is code that runs."""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, cast

from dposcope.errors import DposcopeError

FUNCTION: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A scorer that is a function of a module."""
_SCORERS: Final = frozenset({"scorer", "also_score"})
"""Keys whose values are scorers."""

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusting_files() -> Generator[None]:
    """Inside, files may name functions to call. The command line has --trust-code for it."""
    token = _trusted.set(True)
    try:
        yield
    finally:
        _trusted.reset(token)


def check_scorer(scorer: str, source: object) -> None:
    """Refuse a scorer that is code, named by a file.

    Args:
        scorer: as the file has it.
        source: the file, for the message.

    Raises:
        DposcopeError: it is code, and files are not trusted.
    """
    if not _trusted.get() and FUNCTION.fullmatch(scorer):
        raise DposcopeError(
            f"{source} names code to run as its scorer ({scorer!r}); if you trust it, give --trust-code, or give the "
            f"function yourself: --scorer {scorer}"
        )


def check_code(values: Mapping[str, Any], source: object) -> None:
    """Refuse code named anywhere in what a file holds, see `check_scorer`."""
    for key, value in values.items():
        scorers = key.replace("-", "_") in _SCORERS
        for one in cast(list[Any], value) if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                check_code(cast(Mapping[str, Any], one), source)
            elif scorers and isinstance(one, str):
                check_scorer(one, source)
