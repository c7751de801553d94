"""Prefixes that may stand in the place of a path: files of the package, and word lists."""

from collections.abc import Generator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Final

from dposcope.files import check_is_path

BUILTIN: Final = "builtin:"
"""Prefix for the name of a file that comes with the package."""

WORDS: Final = "words:"
"""Prefix for a word list that serves as a scorer."""


@contextmanager
def located(source: str | Path | None, builtin: str) -> Generator[str | Path]:
    """The path of `source`; None: the package's file `builtin`, and `builtin:FILE`: another file of the package."""
    if isinstance(source, str) and source.startswith(BUILTIN):
        builtin = source.removeprefix(BUILTIN)
    elif source is not None:
        check_is_path(source)
        yield source
        return
    with resources.as_file(resources.files("dposcope.data") / "builtin" / builtin) as path:
        yield path
