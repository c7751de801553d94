"""Whether a run is finished, asked without a model: what it was asked to do, what that named, and what it left.

`run.json` says so at the very end of a run, and no more once the run is opened again. A reproduction skips a step whose
run says that it is finished; any other step is opened, and its stages decide what is made again.
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from dposcope.artefacts import library_versions
from dposcope.errors import DposcopeError
from dposcope.jobs.named_files import code_digest, named_files
from dposcope.jobs.ownership import RUN, marked
from dposcope.jobs.record import Record, other_version
from dposcope.marks import FileMark, FileName, damage, mark_json, marks
from dposcope.reading import read_json

ABOUT: Final = "run.json"
_JOURNAL: Final = "journal.log"
"""Optuna's, which grows whenever its search is opened."""
CHECKPOINT: Final = "model"
"""The folder of a checkpoint within a run; it is built as `.model-…` and renamed."""


@dataclass(frozen=True)
class Finished:
    """What a run says at its end."""

    read: Mapping[str, str]
    """Setting → digest of the files that it names, at the beginning; see `named_files`."""
    code: str
    """Of what made it: a digest of the package, or a revision."""
    versions: Mapping[str, str]
    """Of the libraries."""
    files: Mapping[FileName, FileMark]
    """What it left beside its stages' files, which their records mark."""

    @classmethod
    def of(cls, folder: Path, files: Iterable[Path], *, read: Mapping[str, str], code: str) -> "Finished":
        """At the end of a run in `folder`."""
        return cls(read, code, library_versions(), marks(folder, files))

    def to_json(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self) | {"files": {name: mark_json(mark) for name, mark in self.files.items()}}

    def fault(self, before: Mapping[str, Any], settings: Mapping[str, Any], *, code: str) -> str | None:
        """Why settings would give other results now; None: they would not.

        A file counts by what it holds, wherever it lies. What a setting named and nobody finds any more has not
        changed: a tuned model may be deleted once it was explained.

        Args:
            before: the settings of the run.
            settings: those that are asked for, as JSON gives them.
            code: see the field.
        """
        named = named_files(settings)
        other = other_setting(before, settings, but=self.read.keys() & named.keys())
        if other is not None:
            return f"--{other}"
        for name, digest in named.items():
            if self.read.get(name) != digest:
                return f"what --{name.replace('_', '-')} names has changed"
        return "made by other code" if self.code != code else other_version(self.versions)


@dataclass(frozen=True)
class About:
    """`run.json`."""

    command: str
    settings: dict[str, Any]
    """What decides the results, and may be no other in one folder."""
    free: dict[str, Any]
    """Settings with other ones of which the run may be started again."""
    versions: dict[str, str]
    """Of the libraries that made what is there."""
    prompts: dict[str, Any] | None = None
    """How many prompts there were, and what read them; see `prompts_told`."""
    finished: Finished | None = None

    @classmethod
    def read(cls, folder: Path) -> "About | None":
        """That of a run's folder; None: it has none.

        Raises:
            DposcopeError: it is not as a run writes it.
        """
        path = folder / ABOUT
        return read_json(path, cls, mend="choose another folder, or delete that one") if path.exists() else None

    def to_json(self) -> dict[str, Any]:
        """What `read` reads, with the mark of this program; what is not known yet is left out."""
        told = asdict(self) | {"finished": None if self.finished is None else self.finished.to_json()}
        return marked(RUN, {name: value for name, value in told.items() if value is not None})


def is_finished(folder: Path, command: str, settings: Mapping[str, Any]) -> bool:
    """Whether a run of these settings ended in a folder, and all that it left is as it was; its checkpoint may be gone.

    Args:
        folder: the run's.
        command: `explain`, …
        settings: all of them, those included that a run may be started again with.
    """
    about = About.read(folder)
    if about is None or about.command != command or about.finished is None:
        return False
    found = about.finished
    if found.fault({**about.settings, **about.free}, plain(settings), code=code_digest()):
        return False
    files = [found.files, *(one.files for one in _records(folder))]
    return not any(damage(folder, one, may_be_gone=(CHECKPOINT,)) for one in files)


def _records(folder: Path) -> list[Record]:
    """Those of a run's stages."""
    read = (Record.read(path) for path in sorted((folder / "stages").glob("*.json")))
    return [one for one in read if one is not None]


def refuse_changed(folder: Path, names: Collection[str]) -> None:
    """Refuse results that were changed after their run. A folder without `run.json`, as published ones are, passes.

    Args:
        folder: the run's.
        names: of files below it that are about to be read.

    Raises:
        DposcopeError: one of them is not as the run left it.
    """
    about = About.read(folder)
    if about is None or about.finished is None:
        return
    left = {**about.finished.files, **{name: mark for one in _records(folder) for name, mark in one.files.items()}}
    wrong = damage(folder, {name: left[name] for name in names if name in left})
    if wrong is not None:
        raise DposcopeError(f"in {folder} {wrong}; run the same command there again")


def own_files(folder: Path, *, but: set[str]) -> list[Path]:
    """What a run left, without hidden files, those named, records, and other runs below its folder."""
    found: list[Path] = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.name in ("stages", ABOUT):
            continue
        if path.is_file():
            found.append(path)
        elif not any(path.rglob(ABOUT)):
            found += [file for file in sorted(path.rglob("*")) if file.is_file()]
    return [file for file in found if file.relative_to(folder).as_posix() not in but and file.name != _JOURNAL]


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    return json.loads(json.dumps(settings, default=str))


def other_setting(old: Mapping[str, Any], new: Mapping[str, Any], *, but: Collection[str] = ()) -> str | None:
    """The first setting that differs, and both values; None: none does, `but` for those."""
    for name in [name for name in {**old, **new} if name not in but]:
        if old.get(name) != new.get(name):
            return f"{name.replace('_', '-')} was {old.get(name)!r}, now {new.get(name)!r}"
    return None
