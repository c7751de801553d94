"""Names that stand where a path may: files that come with the package, and files of words."""

from collections.abc import Generator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Final

BUILTIN: Final = "builtin:"
"""Before the name of a file that comes with the package, where a path may stand."""

WORDS: Final = "words:"
"""Before a file of words, where a scorer is named."""


@contextmanager
def located(source: str | Path | None, builtin: str) -> Generator[str | Path]:
    """`source`, or where the package keeps its own file: `builtin` when `source` is None, `builtin:FILE` by name."""
    if isinstance(source, str) and source.startswith(BUILTIN):
        builtin = source.removeprefix(BUILTIN)
    elif source is not None:
        yield source
        return
    with resources.as_file(resources.files("dposcope.data") / "builtin" / builtin) as path:
        yield path
