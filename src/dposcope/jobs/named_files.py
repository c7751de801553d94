"""Digests of what settings name on this machine, so that a change of it is noticed before any model is read."""

import os
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

from dposcope.artefacts import file_digest, text_digest, value_digest, value_files
from dposcope.errors import DposcopeError
from dposcope.files import expanded
from dposcope.marks import LARGE

_FUNCTION: Final = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*")


def named_files(settings: Mapping[str, Any]) -> dict[str, str]:
    """Setting → digest of the files that it names; settings that name none are left out.

    Data, saved values, a function's module, a model's folder or file: what is there now. A hub id or
    a bundled name stands for itself, among the settings.
    """
    found = {name: _named(value) for name, value in settings.items()}
    return {name: digest for name, digest in found.items() if digest is not None}


def _named(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        each = [_named(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
        return text_digest(*(one or "" for one in each)) if any(each) else None
    if not isinstance(value, str) or not value:
        return None
    # As in words:FILE and gains:FOLDER.
    own = [_at(name) for name in (value, value.partition(":")[2]) if name]
    digest = next((one for one in own if one is not None), None)
    # A function is looked for in the working folder.
    if digest is None and (function := _FUNCTION.fullmatch(value)) is not None:
        source = Path(*function[1].split(".")).with_suffix(".py")
        return _stamp(source) if source.is_file() else None
    return digest


def _at(name: str) -> str | None:
    try:
        path = expanded(name)
    except DposcopeError:  # a text that begins with ~
        return None
    if os.path.isfile(path):  # noqa: PTH113 — a setting may be no path at all, and longer than one may be
        return _stamp(path)
    if os.path.isdir(path):  # noqa: PTH112
        return folder_digest(path)
    if not path.name or len(os.fsencode(path.name)) > 200:
        return None
    return value_digest(path) if all(os.path.isfile(file) for file in value_files(path).both) else None  # noqa: PTH113


def folder_digest(folder: Path) -> str:
    """Of a folder's files, a checkpoint's among them; folders and hidden files in it are no part of the model."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    return text_digest(*(f"{file.name} {_stamp(file)}" for file in files))


def _stamp(file: Path) -> str:
    found = file.stat()
    if found.st_size >= LARGE:
        return f"{found.st_size} {found.st_mtime_ns}"
    return _digest_once(file.resolve(), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=256)  # every step of a plan asks for the same files
def _digest_once(file: Path, _size: int, _time: int) -> str:
    return file_digest(file)


@cache
def code_digest() -> str:
    """Of this package's own files: tables and reports, which are no stages, follow from them too."""
    root = Path(__file__).parents[1]
    files = sorted(file for file in root.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    return text_digest(*(f"{file.relative_to(root).as_posix()} {_stamp(file)}" for file in files))
