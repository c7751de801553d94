"""Figures that are made, but painted blank, which halves the time of an explanation."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest
from matplotlib.figure import Figure

_PAINT = Figure.savefig
_BLANK = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="1pt" height="1pt" viewBox="0 0 1 1"/>',
    "png": b"\x89PNG\r\n\x1a\n",
}


def _leave_blank(_figure: Figure, where, *, format: str, **_: object) -> None:
    if hasattr(where, "write"):
        where.write(_BLANK[format])
    else:
        Path(where).write_bytes(_BLANK[format])


@contextmanager
def unpainted() -> Generator[None]:
    """Within, figures are blank."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", _leave_blank)
        yield


@contextmanager
def painted() -> Generator[None]:
    """Within, they are as they are: for what is compared with a process of its own, which paints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", _PAINT)
        yield
