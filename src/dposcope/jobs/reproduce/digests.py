"""What a setting that names something stands for: a digest of what is there now, so that a change of it is noticed."""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from dposcope.artefacts import file_digest, text_digest, value_digest, value_files
from dposcope.data.named import WORDS
from dposcope.evaluation.trained_scorer import find_trained
from dposcope.jobs.ingredients import DIRECTIONS

_LARGE: Final = 64 * 2**20
"""Bytes from which a model's file is known by its size and time: reading gigabytes to plan would take too long."""
_FUNCTION: Final = re.compile(r"([A-Za-z_][\w.]*):[A-Za-z_]\w*")


def named_digest(value: Any) -> Any:
    """Of data, a concept or a scorer, or of a list of them; what is no file of this machine stands for itself."""
    if isinstance(value, list):
        return [named_digest(one) for one in value]
    name = str(value)
    path = Path(name.removeprefix(WORDS)).expanduser()
    if path.is_file():
        return _digest(path)
    if (stem := find_trained(path)) is not None:
        return value_digest(stem)
    if path.is_dir():
        return folder_digest(path)
    # A scorer of one's own is looked for in the working folder.
    if (function := _FUNCTION.fullmatch(name)) is not None:
        source = Path(*function[1].split(".")).with_suffix(".py")
        return [name, _digest(source)] if source.is_file() else name
    return name


def model_digest(name: str) -> str:
    """Of a model by its bundled name, folder, GGUF file or hub id; the last stands for itself."""
    path = Path(name).expanduser()
    if path.is_dir():
        return folder_digest(path)
    return _stamp(path) if path.is_file() else name


def direction_digest(name: str) -> str | None:
    """Of a saved direction; None for a kind, or where there is none."""
    files = value_files(name)
    saved = name not in DIRECTIONS and all(file.is_file() for file in files.both)
    return value_digest(name) if saved else None


def folder_digest(folder: Path) -> str:
    """Of a checkpoint's files; folders and hidden files in it are no part of the model."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    return text_digest(*(f"{file.name} {_stamp(file)}" for file in files))


def _stamp(file: Path) -> str:
    found = file.stat()
    return f"{found.st_size} {found.st_mtime_ns}" if found.st_size > _LARGE else _digest(file)


def _digest(file: Path) -> str:
    found = file.stat()
    return _digest_once(file.resolve(), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=256)  # every step of a plan asks for the same files
def _digest_once(file: Path, _size: int, _time: int) -> str:
    return file_digest(file)
