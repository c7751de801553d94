"""A temporary place for a result, so that its final name appears only when it is complete."""

import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from dposcope.artefacts import check_path, current_umask
from dposcope.durable import place
from dposcope.errors import DposcopeError, first_line


@contextmanager
def fresh(out: Path) -> Generator[Path]:
    """Yield a temporary path next to `out` for a file or a folder; rename it to `out` when the block succeeds.

    An error removes it. A killed run leaves it under the hidden name `.NAME.part`, and the next run with the same `out`
    removes it.

    Raises:
        DposcopeError: `out` exists, another run is writing it, or the disk is full.
    """
    check_path(out)
    if out.exists() or out.is_symlink():
        raise DposcopeError(f"{out} exists already; choose another --out, or remove it first")
    part, lock = out.with_name(f".{out.name}.part"), FileLock(out.with_name(f".{out.name}.lock"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with lock.acquire(timeout=0):
            _remove(part)
            try:
                yield part
                make_readable(part)
                place(part, out)
            finally:
                _remove(part)
                Path(lock.lock_file).unlink(missing_ok=True)
    except Timeout as error:
        raise DposcopeError(f"another run is writing {out}; wait for it, or choose another --out") from error
    except (OSError, SafetensorError) as error:
        reason = first_line(error)
        where = f" at {error.filename}" if isinstance(error, OSError) and error.filename else ""
        raise DposcopeError(f"cannot write {out}: {reason}{where}; free some space or choose another --out") from error


def make_readable(path: Path) -> None:
    """Let others read a file, or a folder and all in it, as far as the umask allows."""
    # Copies have the modes of the originals, which may be private or read-only.
    mask = current_umask()
    for one in [path, *path.rglob("*")] if path.is_dir() else [path]:
        one.chmod((0o777 if one.is_dir() else 0o666) & ~mask)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
