"""A run: a folder, its settings, and stages that are done once whatever interrupts them.

A stage's files are written atomically and then recorded. A stage whose record still holds (the same inputs, the same
revision of its code, the same libraries, every file as it was made) is loaded instead of repeated. A stage is always
loaded from its files, also right after it was made, so an interrupted and resumed run gives what an undisturbed one
gives.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from pydantic import TypeAdapter

from dposcope.artefacts import library_versions, text_digest, value_files, write_atomically, write_json
from dposcope.durable import flush
from dposcope.errors import DposcopeError
from dposcope.jobs.finished import ABOUT, About
from dposcope.jobs.prompts_read import PromptSet, prompts_among
from dposcope.jobs.record import OTHER_INPUTS, Record, records_of
from dposcope.jobs.reporter import Quiet, Reporter
from dposcope.marks import FileMark, marks
from dposcope.reading import read_json

T = TypeVar("T")
M = TypeVar("M")


class SavedValue(Protocol):
    """A value that saves itself as `STEM.safetensors` and `STEM.json`, and loads itself from them."""

    def save(self, stem: str | Path, /) -> None:
        """Write both files."""
        ...

    @classmethod
    def load(cls, stem: str | Path, /) -> Self:
        """Read them."""
        ...


V = TypeVar("V", bound=SavedValue)


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


def nothing(_made: object) -> None:
    """What is left to write."""


class Run:
    """A folder that holds one run. Open it with `open_run`."""

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        reporter: Reporter,
        policy: RunPolicy = RunPolicy(),
        *,
        prompts: Mapping[str, PromptSet] | None = None,
    ) -> None:
        """See `open_run`."""
        self.folder = folder
        self.settings = settings
        self.reporter = reporter
        self.prompts = dict(prompts or {})
        self.joined = policy.join
        self._borrow = policy.borrow
        self._inputs: dict[str, str] = {}

    def stage(
        self,
        name: str,
        title: str,
        *,
        inputs: Mapping[str, Any],
        files: Sequence[Path] = (),
        make: Callable[[], M],
        write: Callable[[M], object] = nothing,
        load: Callable[[], T],
        revision: int = 1,
    ) -> T:
        """The result of a stage, made now or on an earlier try.

        Args:
            name: of its record, `stages/NAME.json`.
            title: for people.
            inputs: JSON-able facts that decide the result; other ones make the stage run again.
            files: what the stage leaves, files and whole folders; where one is gone or changed, the stage runs again.
            make: computes what the stage leaves. Several processes that work in the run all do, and share the work.
            write: writes it to the stage's files, each atomically; the process that holds the folder does. Default:
                nothing is left, or `make` has written it.
            load: reads them.
            revision: of the code behind `make`. Whoever changes what that code computes raises it by 1, here where
                the stage is called: results that the old code left are then made again. Code that only reads better
                keeps its number.
        """
        path = self._record(name)
        key = text_digest(json.dumps(inputs, sort_keys=True, default=str))
        # Each would take the other's files for its own, and overwrite them.
        if self._inputs.setdefault(name, key) != key:
            raise ValueError(f"two stages of different inputs are called {name!r}")
        found = Record.read(path)
        fault = None
        if found is not None:
            fault = found.fault(self.folder, inputs=key, revision=revision, files=files)
            if fault is None:
                self.reporter.reused(title)
                return load()
        if self.joined:
            raise DposcopeError(
                f"nothing to join in {self.folder} yet: the step {name!r} is not done, or was done with other "
                "settings, data or libraries; start the run itself first, with the same options and without --join"
            )
        if fault is not None and fault != OTHER_INPUTS:
            self.reporter.note(f"{title}, once more: {fault}")
        if any(self._copied(other, name, inputs=key, revision=revision, files=files) for other in self._borrow):
            self.reporter.reused(title)
            return load()
        self.reporter.stage(title)
        # While files are replaced, an old record must not vouch for them.
        path.unlink(missing_ok=True)
        start = time.monotonic()
        write(make())
        for file in files:  # the record vouches for what is on the disk
            flush(file)
        seconds = round(time.monotonic() - start, 2)
        read = prompts_among(inputs, self.prompts)
        self._enter(name, Record(key, revision, library_versions(), marks(self.folder, files), seconds, read))
        return load()

    def value(
        self,
        name: str,
        title: str,
        kind: type[V],
        *,
        inputs: Mapping[str, Any],
        make: Callable[[], V],
        revision: int = 1,
    ) -> V:
        """The value of a stage that makes one and saves it, at `NAME.safetensors` and `NAME.json`.

        Args:
            name: of the record and of the files.
            title: for people.
            kind: of the value.
            inputs: see `stage`.
            make: computes it.
            revision: see `stage`.
        """
        stem = self.folder / name
        return self.stage(
            name,
            title,
            inputs=inputs,
            files=value_files(stem).both,
            make=make,
            write=lambda made: made.save(stem),
            load=lambda: kind.load(stem),
            revision=revision,
        )

    def json(
        self,
        name: str,
        title: str,
        kind: type[T] | TypeAdapter[T],
        *,
        inputs: Mapping[str, Any],
        make: Callable[[], Any],
        file: Path | None = None,
        revision: int = 1,
    ) -> T:
        """What a stage made that is written as JSON, read back.

        Args:
            name: of the record.
            title: for people.
            kind: schema of the file.
            inputs: see `stage`.
            make: computes it.
            file: that holds it. Default: `NAME.json`.
            revision: see `stage`.
        """
        place = self.folder / f"{name}.json" if file is None else file
        return self.stage(
            name,
            title,
            inputs=inputs,
            files=[place],
            make=make,
            write=lambda made: write_json(place, made),
            load=lambda: read_json(place, kind),
            revision=revision,
        )

    def write(self, work: Callable[[], object]) -> None:
        """Write files that are of no stage; of several processes in the run, the one that holds the folder does, and
        the others wait."""
        work()

    def silent(self) -> Self:
        """The same run, which tells nobody."""
        other = copy(self)
        other.reporter = Quiet()
        return other

    def release(self, name: str) -> None:
        """The files of a stage were scratch and are about to go: its record keeps nothing but the time that it took."""
        found = Record.read(self._record(name))
        if found is not None:
            write_json(self._record(name), replace(found, inputs="", files={}).to_json())

    def seconds(self) -> dict[str, float]:
        """How long each stage took when it was made."""
        return {name: record.seconds for name, record in records_of(self.folder).items()}

    def _record(self, name: str) -> Path:
        return self.folder / "stages" / f"{name}.json"

    def _enter(self, name: str, record: Record) -> None:
        write_json(self._record(name), record.to_json())
        about = About.read(self.folder)
        if about is not None and about.versions != record.versions:
            tell_versions(self.folder, about)

    def _copied(self, other: Path, name: str, *, inputs: str, revision: int, files: Sequence[Path]) -> bool:
        """Whether a stage could be taken from another run's folder, files first and its record last."""
        theirs = other / "stages" / f"{name}.json"
        told = Record.read(theirs)
        lent = [other / file.relative_to(self.folder) for file in files]
        if told is None or told.fault(other, inputs=inputs, revision=revision, files=lent) is not None:
            return False
        self._record(name).unlink(missing_ok=True)
        for file in told.files:
            with write_atomically(self.folder / file) as temporary:
                shutil.copyfile(other / file, temporary)
        if Record.read(theirs) != told:  # its owner has begun to replace them
            return False
        copied = {file: FileMark.of(self.folder / file) for file in told.files}
        if any(copied[file].sha256 != mark.sha256 for file, mark in told.files.items()):
            return False
        self._enter(name, replace(told, files=copied))
        return True


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


def tell_versions(folder: Path, about: About) -> None:
    """`run.json` names the libraries that made what is there: where stages differ, all of them."""
    made_by = [record.versions for record in records_of(folder).values()]
    names = dict.fromkeys(name for one in made_by for name in one)
    versions = {name: ", ".join(sorted({one[name] for one in made_by if name in one})) for name in names}
    if versions and about.versions != versions:
        write_json(folder / ABOUT, replace(about, versions=versions).to_json())
