"""What files were when they were made, so that damage is noticed instead of believed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

from pydantic import AfterValidator

from dposcope.artefacts import file_digest
from dposcope.errors import DposcopeError
from dposcope.reading import read_json

LARGE: Final = 64 * 2**20
"""Bytes from which a file that has its size and its time is believed unread: gigabytes take too long at every start."""


@dataclass(frozen=True)
class FileMark:
    """What a file was when it was made."""

    bytes: int
    sha256: str
    modified: int | None = None
    """Nanoseconds; of a large file alone."""

    @classmethod
    def of(cls, file: Path) -> "FileMark":
        """Read the file."""
        found = file.stat()
        return cls(found.st_size, file_digest(file), found.st_mtime_ns if found.st_size >= LARGE else None)

    def fits(self, file: Path) -> bool:
        """Whether the file still is what it was. A large one whose time has not changed is not read."""
        found = file.stat()
        if found.st_size != self.bytes:
            return False
        return found.st_mtime_ns == self.modified or file_digest(file) == self.sha256


def _within(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError("names a file outside the folder")
    return name


FileName = Annotated[str, AfterValidator(_within)]
"""A file below the folder that it is told of."""


def marks(folder: Path, files: Iterable[Path]) -> dict[str, FileMark]:
    """Name below `folder` → mark, of files and of all files within folders; hidden ones are nobody's."""
    whole = [
        one for file in files for one in (sorted(file.rglob("*")) if file.is_dir() else [file]) if not one.is_dir()
    ]
    return {
        file.relative_to(folder).as_posix(): FileMark.of(file)
        for file in whole
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    }


def damage(folder: Path, files: Mapping[str, FileMark], *, may_be_gone: Sequence[str] = ()) -> str | None:
    """What is wrong with the first file that is not as it was; None: all are.

    Args:
        folder: that the names start from.
        files: name → mark.
        may_be_gone: folders whose files somebody may have deleted.
    """
    for name, mark in files.items():
        file = folder / name
        if not file.is_file():
            if not any(Path(name).is_relative_to(one) for one in may_be_gone):
                return f"{name} is gone"
        elif not mark.fits(file):
            return f"{name} is not as it was made"
    return None


def read_marks(path: Path) -> dict[str, FileMark] | None:
    """Name → mark, from a file of marks; None: it is not there, or damaged itself."""
    try:
        return read_json(path, dict[FileName, FileMark])
    except DposcopeError:
        return None


def mark_json(mark: FileMark) -> dict[str, Any]:
    """Without the time where there is none."""
    return {name: value for name, value in asdict(mark).items() if value is not None}
