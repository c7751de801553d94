"""What belongs to this program: only folders and files that it wrote are written again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dposcope.artefacts import value_files
from dposcope.errors import DposcopeError
from dposcope.reading import read_object

FORMAT: Final = 1
"""Of `run.json` and `overview.json`, and with them of their folders."""
RUN: Final = "dposcope run"
REPORT: Final = "dposcope report"
_RUN, _REPORT, _LOCK = "run.json", "overview.json", ".lock"


def marked(kind: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Facts of a folder with the mark of this program."""
    return {"kind": kind, "format_version": FORMAT, **facts}


def refuse_foreign_folder(folder: Path) -> None:
    """Refuse a folder for a run that holds anything but a run, or the beginning of one.

    Raises:
        DposcopeError: it is a file, holds other files, or is of a newer version.
    """
    if folder.exists() and not folder.is_dir():
        raise DposcopeError(f"{folder} is a file; choose a folder for --out")
    if not folder.is_dir() or _owned(folder / _RUN, RUN):
        return
    if any(not _begun_only(file) for file in folder.iterdir()):
        raise DposcopeError(f"{folder} holds files that are not a run's; choose an empty or new folder for --out")


def refuse_foreign_report(folder: Path) -> None:
    """Refuse a folder for a report that holds anything but an earlier report, or a run.

    Raises:
        DposcopeError: as `refuse_foreign_folder`.
    """
    if not _owned(folder / _REPORT, REPORT):
        refuse_foreign_folder(folder)


def refuse_foreign_value(stem: Path) -> None:
    """Refuse to replace files that are no saved value of this program.

    Raises:
        DposcopeError: one of the two files is there and is someone else's.
    """
    files = value_files(stem)
    present = [file for file in files.both if file.exists()]
    if not present:
        return
    try:
        own = {"kind", "tensors_sha256", "format_version"} <= read_object(files.about).keys()
    except DposcopeError:
        own = False
    if not own:
        raise DposcopeError(f"{present[0]} exists already and is not from dposcope; choose another --out")


def _owned(file: Path, kind: str) -> bool:
    """Whether a file carries the mark of a kind.

    Raises:
        DposcopeError: it cannot be read, or is of a newer version.
    """
    if not file.is_file():
        return False
    told = read_object(file, mend="choose another --out, or delete it")
    if told.get("kind") != kind:
        return False
    found = told.get("format_version")
    if found != FORMAT:
        raise DposcopeError(f"{file} has format {found!r}; this version reads {FORMAT}: upgrade dposcope")
    return True


def _begun_only(file: Path) -> bool:
    """Whether a process that was killed at the very beginning of a run may have left this file."""
    if file.is_dir():
        return False
    return (file.name == _LOCK and not file.stat().st_size) or (
        file.name.startswith(f".{_RUN}.") and file.name.endswith(".part")
    )
