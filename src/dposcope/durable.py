"""What a loss of power must not take: a name or a mark stands for contents that are on the disk.

A rename is safe against a killed process. It is not safe against a crash of the machine: a file system may keep the new
name and lose the contents, and an empty file then looks whole. So contents are flushed before they get their name, and
a folder is flushed after a name in it has changed.
"""

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Put a file on the disk; of a folder, all files in it and their names."""
    inside = sorted(path.rglob("*")) if path.is_dir() else []
    for one in [*reversed(inside), path]:  # a folder after what is in it
        if not one.is_symlink():
            _flush(one)


def place(built: Path, target: Path) -> None:
    """Give what was built under a temporary name its own, on the same disk; it is flushed before, its folder after.

    A file that is there is replaced; a folder that is there must be empty.
    """
    flush(built)
    built.replace(target)
    _flush(target.parent)


def _flush(path: Path) -> None:
    if path.is_dir() and not hasattr(os, "O_DIRECTORY"):  # Windows opens no folders
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
