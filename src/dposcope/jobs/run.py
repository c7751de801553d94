"""A run: a folder, its settings, and stages that are done once whatever interrupts them.

A stage's outputs are written atomically and then recorded; a stage whose record matches its
inputs is loaded instead of repeated. A stage is always loaded from its files, also right
after it was made, so an interrupted and resumed run gives what an undisturbed one gives.
"""

import json
import shutil
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from filelock import FileLock, Timeout

from dposcope.artefacts import library_versions, read_json, text_digest, write_atomically, write_json
from dposcope.errors import DposcopeError

T = TypeVar("T")

CHECKPOINT = "model"
"""The folder of an edited checkpoint within a run; it is built as `.model-…` and renamed."""


class Reporter(Protocol):
    """Tells a person how far a run is."""

    def stage(self, title: str) -> None:
        """A stage begins."""
        ...

    def reused(self, title: str) -> None:
        """A stage was done before and is loaded."""
        ...

    def progress(self, done: int, total: int) -> None:
        """Steps within the current stage."""
        ...


class Quiet:
    """A reporter that says nothing."""

    def stage(self, title: str) -> None:
        """Nothing."""

    def reused(self, title: str) -> None:
        """Nothing."""

    def progress(self, done: int, total: int) -> None:
        """Nothing."""


@dataclass(frozen=True)
class RunPolicy:
    """How a run treats what is there already."""

    adopt: bool = False
    """Go on in a folder of the same command with other settings: only stages that depend on a changed one are made
    again. Otherwise such a folder is refused."""
    borrow: tuple[Path, ...] = ()
    """Folders of other runs of the same command: a stage that one of them holds, made from the same inputs, is
    copied instead of made."""
    join: bool = False
    """Help another process that works in the folder: no lock is taken, and stages are read, never made."""


class Run:
    """A folder that holds one run. Open it with `open_run`."""

    def __init__(
        self, folder: Path, settings: Mapping[str, Any], reporter: Reporter, policy: RunPolicy = RunPolicy()
    ) -> None:
        """See `open_run`."""
        self.folder = folder
        self.settings = settings
        self.reporter = reporter
        self.joined = policy.join
        self._borrow = policy.borrow

    def stage(
        self,
        name: str,
        title: str,
        *,
        inputs: Mapping[str, Any],
        files: Sequence[Path] = (),
        make: Callable[[], None],
        load: Callable[[], T],
    ) -> T:
        """The result of a stage, made now or on an earlier try.

        Args:
            name: of its record, `stages/NAME.json`.
            title: for people.
            inputs: JSON-able facts that decide the result; other ones make the stage run again.
            files: what the stage leaves; where one is gone, the stage runs again.
            make: writes the stage's files, each atomically.
            load: reads them.
        """
        record = self.folder / "stages" / f"{name}.json"
        key = text_digest(json.dumps(inputs, sort_keys=True, default=str))
        if _vouches(record, key) and all(file.exists() for file in files):
            self.reporter.reused(title)
            return load()
        if self.joined:
            raise DposcopeError(
                f"nothing to join in {self.folder} yet: the step {name!r} is not done, or was done with other settings "
                "or data; start the run itself first, with the same options and without --join"
            )
        if any(_copied(self.folder, other, record, key, files) for other in self._borrow):
            self.reporter.reused(title)
            return load()
        self.reporter.stage(title)
        # While files are replaced, an old record must not vouch for them.
        record.unlink(missing_ok=True)
        start = time.monotonic()
        make()
        write_json(record, {"inputs": key, "seconds": round(time.monotonic() - start, 2)})
        return load()

    def seconds(self) -> dict[str, float]:
        """How long each stage took when it was made."""
        records = sorted((self.folder / "stages").glob("*.json"))
        return {record.stem: float(read_json(record)["seconds"]) for record in records}


def lenders(places: Sequence[Path]) -> tuple[Path, ...]:
    """Folders of runs, at or below some places, whose stages another run may take.

    Raises:
        DposcopeError: a place holds none.
    """
    found: list[Path] = []
    for place in places:
        runs = sorted({stages.parent for stages in place.rglob("stages") if any(stages.glob("*.json"))})
        if not runs:
            raise DposcopeError(f"nothing to borrow in {place}: no run has finished a step there; name another folder")
        found += runs
    return tuple(found)


def _vouches(record: Path, key: str) -> bool:
    return record.exists() and read_json(record).get("inputs") == key


def _copied(folder: Path, other: Path, record: Path, key: str, files: Sequence[Path]) -> bool:
    """Whether a stage could be taken from another run's folder, files first and its record last."""
    theirs = other / record.relative_to(folder)
    sources = [other / file.relative_to(folder) for file in files]
    if not _vouches(theirs, key) or not all(source.exists() for source in sources):
        return False
    told = read_json(theirs)
    record.unlink(missing_ok=True)
    for source, file in zip(sources, files, strict=True):
        with write_atomically(file) as temporary:
            shutil.copyfile(source, temporary)
    if not _vouches(theirs, key):  # its owner has begun to replace them
        return False
    write_json(record, told)
    return True


@contextmanager
def open_run(
    folder: Path,
    command: str,
    settings: Mapping[str, Any],
    *,
    reporter: Reporter | None = None,
    policy: RunPolicy = RunPolicy(),
) -> Generator[Run]:
    """Open a run's folder, or make it; one process at a time.

    Args:
        folder: `--out`.
        command: `edit`, `evaluate`, …
        settings: everything that decides the results, JSON-able.
        reporter: told of stages and steps.
        policy: what to do about what is there already.

    Raises:
        DposcopeError: the folder holds something else, another run's results, or is in use. One that is raised within,
            before anything was done, takes the new folder with it.
    """
    about = folder / "run.json"
    wanted = json.loads(json.dumps(settings, default=str))
    if policy.join:
        if not about.exists():
            raise DposcopeError(f"{folder} holds no run to join; start it first, without --join")
        _changed(folder, read_json(about), command, wanted, adopt=False)
        yield Run(folder, settings, reporter or Quiet(), policy)
        return
    check_folder(folder, command)
    try:
        made = _made(folder)
    except OSError as error:
        raise DposcopeError(f"cannot make {folder}: {error.strerror or error}; choose another --out") from error
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise DposcopeError(f"another process is working in {folder}; wait for it, or choose another --out") from error
    except OSError as error:
        raise DposcopeError(f"cannot write in {folder}: {error.strerror or error}; choose another --out") from error
    try:
        _clear_scraps(folder)
        if about.exists() and _begun(folder):
            changed = _changed(folder, read_json(about), command, wanted, adopt=policy.adopt)
        else:  # nothing was done yet: a slip in the settings may be mended
            changed = True
        if changed:
            write_json(about, {"command": command, "settings": wanted, "versions": library_versions()})
        try:
            yield Run(folder, settings, reporter or Quiet(), policy)
        except DposcopeError:
            if made:
                _forget(folder)
            raise
    finally:
        lock.release()


def check_folder(folder: Path, command: str) -> None:
    """Refuse a folder that can be none of this command's, without touching it.

    Raises:
        DposcopeError: it is a file, holds something else, or another command's run.
    """
    if folder.is_file():
        raise DposcopeError(f"{folder} is a file; choose a folder for --out")
    about = folder / "run.json"
    if about.exists():
        if _begun(folder):
            _of_command(folder, read_json(about), command)
    elif folder.is_dir() and any(folder.iterdir()) and not (folder / ".lock").exists():
        raise DposcopeError(f"{folder} holds files that are not a run's; choose an empty or new folder for --out")


def _begun(folder: Path) -> bool:
    # A reproduction has no stages of its own, and a manifest from its first step on.
    return any((folder / "stages").glob("*.json")) or (folder / "manifest.json").exists()


def _made(folder: Path) -> bool:
    """Make a folder; whether it was not there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _forget(folder: Path) -> None:
    """Remove the folder of a run that was refused before it did anything, such as for a model that is not there."""
    with suppress(OSError):  # it may be gone: what is told is why the run was refused
        if {file.name for file in folder.iterdir()} == {"run.json", ".lock"}:
            for name in ("run.json", ".lock"):
                (folder / name).unlink()
            folder.rmdir()


def _of_command(folder: Path, found: Mapping[str, Any], command: str) -> None:
    if found.get("command") != command:
        raise DposcopeError(
            f"{folder} holds a run of '{found.get('command')}'; choose another --out, or delete that folder"
        )


def _clear_scraps(folder: Path) -> None:
    """Remove what a killed process left half-written; whoever holds the lock is the only writer."""
    for scrap in [*folder.glob(".*.part"), *folder.glob("*/.*.part"), *folder.glob(f".{CHECKPOINT}-*")]:
        if scrap.is_dir():
            shutil.rmtree(scrap, ignore_errors=True)
        else:
            scrap.unlink(missing_ok=True)


def _changed(folder: Path, found: Mapping[str, Any], command: str, wanted: Mapping[str, Any], *, adopt: bool) -> bool:
    """Whether the settings are others than those of the run that is there.

    Raises:
        DposcopeError: they are and may not be, or it is a run of another command.
    """
    _of_command(folder, found, command)
    old = found["settings"]
    changed = [name for name in {**old, **wanted} if old.get(name) != wanted.get(name)]
    if changed and not adopt:
        name = changed[0]
        raise DposcopeError(
            f"{folder} holds another run's results ({name.replace('_', '-')} was {old.get(name)!r}, now "
            f"{wanted.get(name)!r}); choose another --out, or delete that folder"
        )
    return bool(changed)
