"""What a finished stage says of itself, and how it is told whether that still holds.

A record names what decided the result (a digest of the stage's inputs, the revision of its code, the libraries) and
marks every file that it left. What the record says is believed only as long as all of it is so.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from dposcope.artefacts import library_versions, read_sealed, sealed
from dposcope.marks import FileMark, FileName, damage, mark_json

DECIDING: Final = ("dposcope", "torch", "transformers")
"""Libraries of another version may give other numbers: what one of them made is then made again."""

OTHER_INPUTS: Final = "made from something else"


def deciding_versions() -> dict[str, str | None]:
    """Of this installation."""
    here = library_versions()
    return {name: here.get(name) for name in DECIDING}


def other_version(made_by: Mapping[str, str]) -> str | None:
    """The first deciding library that is of another version than the one that made something; None: none is."""
    for name, here in deciding_versions().items():
        if made_by.get(name) != here:
            return f"made by {name} {made_by.get(name)}, this is {here}"
    return None


@dataclass(frozen=True)
class Record:
    """Of one stage."""

    inputs: str
    """Digest of what it was made from."""
    revision: int
    """Of its code."""
    versions: Mapping[str, str]
    """Of the libraries that made it."""
    files: Mapping[FileName, FileMark]
    """What it left, by names within the run's folder."""
    seconds: float
    """How long that took: the only clock in a run."""
    prompts: tuple[str, ...] = ()
    """Digests of the sets of prompts that it depends on; see `prompts_among`."""

    @classmethod
    def read(cls, path: Path) -> "Record | None":
        """The record in a file; None: there is no such file.

        Raises:
            DposcopeError: it holds no record.
        """
        return read_sealed(path, cls) if path.exists() else None

    def to_json(self) -> dict[str, Any]:
        """What `read` reads; `prompts` only where the stage depends on any."""
        told = asdict(self) | {"files": {name: mark_json(mark) for name, mark in self.files.items()}}
        return sealed({name: value for name, value in told.items() if name != "prompts" or value})

    def fault(self, folder: Path, *, inputs: str, revision: int, files: Sequence[Path]) -> str | None:
        """Why the stage must be made again; None: what it left is what these inputs give.

        Args:
            folder: the run's.
            inputs: digest of what it would be made from now.
            revision: of the code that would make it now.
            files: what it leaves, files and folders.
        """
        if self.inputs != inputs:
            return OTHER_INPUTS
        if self.revision != revision:
            return f"made by revision {self.revision} of its code, this is {revision}"
        missing = [file for file in files if not self._has(file.relative_to(folder))]
        if missing:
            return f"{missing[0].relative_to(folder).as_posix()} is gone"
        return other_version(self.versions) or damage(folder, self.files)

    def _has(self, wanted: Path) -> bool:
        return any(Path(name).is_relative_to(wanted) for name in self.files)


def records_of(folder: Path) -> dict[str, Record]:
    """Stage → its record, of all stages that a run has finished.

    Args:
        folder: of the run.
    """
    found = {path.stem: Record.read(path) for path in sorted((folder / "stages").glob("*.json"))}
    return {name: record for name, record in found.items() if record is not None}
