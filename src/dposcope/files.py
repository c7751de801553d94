"""Files that a user names: ordinary ones only, and no larger than can be meant where they are read whole.

A pipe or a device never ends, or never begins.
"""

import stat
from os import PathLike
from pathlib import Path
from typing import Final

from dposcope.errors import DposcopeError

MOST_DATA: Final = 1 << 30
"""Bytes of a table or a text. The largest that the field reads so (Civil Comments, WikiText-103) have some 0.8e9; in
memory a table takes about six times its bytes."""
MOST_SETTINGS: Final = 1 << 20
"""Bytes of a file of settings, a concept spec or a preset. Those of people have some thousand."""

_KINDS: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def check_is_path(path: object) -> None:
    """Refuse what is no path.

    Raises:
        DposcopeError: it is none.
    """
    if not isinstance(path, str | PathLike):
        raise DposcopeError(f"a {type(path).__name__} is no path; give a text, or a pathlib.Path")


def expanded(path: str | Path) -> Path:
    """A path with `~` as the home folder.

    Raises:
        DposcopeError: it is none, or names the home folder of a user that is not there.
    """
    check_is_path(path)
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DposcopeError(f"there is no home folder for {str(path)!r}; write the path without ~") from error


def check_regular(path: Path) -> int:
    """Refuse what is there but is no ordinary file, before anything opens it.

    Args:
        path: links are followed.

    Returns:
        Its size in bytes.

    Raises:
        DposcopeError: it is a folder, a pipe, a socket or a device.
        OSError: it is not there, or cannot be reached.
    """
    try:
        found = path.stat()
    except ValueError as error:  # a null character in it
        raise DposcopeError(f"{str(path)!r} is no path ({error}); check it") from error
    if stat.S_ISREG(found.st_mode):
        return found.st_size
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no file")
    mend = "name a file in it" if kind == "a folder" else "copy what it gives into a file, and name that"
    raise DposcopeError(f"{path} is {kind}; {mend}")


def read_regular(path: Path, *, most: int = MOST_DATA) -> bytes:
    """An ordinary file, whole.

    Args:
        path: links are followed.
        most: bytes that it may have.

    Raises:
        DposcopeError: it is no ordinary file, or larger.
        OSError: it is not there, or cannot be read.
    """
    if check_regular(path) <= most:
        with path.open("rb") as stream:
            data = stream.read(most + 1)  # it may have grown, and some files of the system say that they are empty
        if len(data) <= most:
            return data
    raise DposcopeError(
        f"{path} has more than {most:,} bytes, the most that are read of such a file; give a smaller one or a part"
    )
