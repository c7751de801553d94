"""Code and servers that a file names. A concept spec, a preset or a settings file may come from a stranger; a scorer
written `module:function` is code that runs, and a token judge with an address is sent the user's key."""

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
_JUDGE: Final = "token_judge"
"""The key whose value is a token judge."""

_trusted: ContextVar[bool] = ContextVar("trusted", default=False)


@contextmanager
def trusting_files() -> Generator[None]:
    """Inside, files may name functions to call and servers to ask. The command line has --trust-code for it."""
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


def _check_judge(judge: str, source: object) -> None:
    if not _trusted.get() and judge.lower().startswith(("http://", "https://")):
        raise DposcopeError(
            f"{source} names a server as its token judge ({judge!r}), which would be sent your key; if you trust it, "
            f"give --trust-code, or name the server yourself: --token-judge {judge}"
        )


def check_settings(values: Mapping[str, Any], source: object) -> None:
    """Refuse code and servers named anywhere in what a file holds.

    Args:
        values: settings, and settings within settings.
        source: the file, for the message.

    Raises:
        DposcopeError: a scorer is code or a token judge is a server, and files are not trusted.
    """
    for key, value in values.items():
        name = key.replace("-", "_")
        for one in cast(list[Any], value) if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                check_settings(cast(Mapping[str, Any], one), source)
            elif isinstance(one, str) and name in _SCORERS:
                check_scorer(one, source)
            elif isinstance(one, str) and name == _JUDGE:
                _check_judge(one, source)
