"""Open a run's folder: make it, or go on in it, one process at a time."""

import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from filelock import FileLock, Timeout

from dposcope.artefacts import check_path, library_versions, write_json
from dposcope.errors import DposcopeError
from dposcope.jobs.finished import ABOUT, CHECKPOINT, About, Finished, other_setting, own_files, plain
from dposcope.jobs.named_files import code_digest, named_files
from dposcope.jobs.ownership import refuse_foreign_folder
from dposcope.jobs.prompts_read import PromptSet, prompts_told
from dposcope.jobs.record import records_of
from dposcope.jobs.reporter import Quiet, Reporter
from dposcope.jobs.run import Run, RunPolicy, tell_versions

_USUAL: Final = RunPolicy()


@contextmanager
def open_run(
    folder: Path,
    command: str,
    settings: Mapping[str, Any],
    *,
    free: Mapping[str, Any] | None = None,
    prompts: Mapping[str, PromptSet] | None = None,
    reporter: Reporter | None = None,
    policy: RunPolicy = _USUAL,
) -> Generator[Run]:
    """Open a run's folder, or make it; one process at a time.

    Args:
        folder: `--out`.
        command: `edit`, `evaluate`, …
        settings: what decides the results and may be no other in one folder, JSON-able.
        free: further settings, with other ones of which the run may be started again.
        prompts: purpose → prompts that the run reads, for `run.json` to count.
        reporter: told of stages and steps.
        policy: what to do about what is there already.

    Raises:
        DposcopeError: the folder holds something else, another run's results, or is in use. One that is raised within,
            before anything was done, takes the new folder with it.
    """
    wanted, others = plain(settings), plain(free or {})
    if policy.join:
        joined = About.read(folder)
        if joined is None:
            raise DposcopeError(f"{folder} holds no run to join; start it first, without --join")
        _check_settings(folder, joined, command, wanted)
        yield Run(folder, settings, reporter or Quiet(), policy)
        return
    check_folder(folder, command)
    try:
        made = _made(folder)
        empty = made or not any(folder.iterdir())
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
        before = About.read(folder)
        told = About(command, wanted, others, library_versions())
        if before is not None and _begun(folder):
            if not policy.adopt:
                _check_settings(folder, before, command, wanted)
            _of_command(folder, before, command)
            told = replace(told, versions=before.versions)  # of what is there
        if before != told:
            write_json(folder / ABOUT, told.to_json())
        tell_versions(folder, told)  # a process may have been killed between a record and this
        read = named_files({**wanted, **others})
        try:
            yield Run(folder, settings, reporter or Quiet(), policy, prompts=prompts)
        except DposcopeError:
            if empty:
                _forget(folder, made=made)
            raise
        _finish(folder, read, prompts or {})
    finally:
        lock.release()


def _finish(folder: Path, read: Mapping[str, str], prompts: Mapping[str, PromptSet]) -> None:
    """`run.json` says that the run is finished, what it left, and what read its prompts."""
    about = About.read(folder)
    if about is None:  # somebody removed the folder meanwhile
        return
    records = records_of(folder)
    recorded = {file for record in records.values() for file in record.files}
    end = Finished.of(folder, own_files(folder, but=recorded), read=read, code=code_digest())
    counted = prompts_told(prompts, records) if prompts else None
    write_json(folder / ABOUT, replace(about, prompts=counted, finished=end).to_json())


def check_folder(folder: Path, command: str) -> None:
    """Refuse a folder that can be none of this command's, without touching it.

    Raises:
        DposcopeError: it is a file, holds something else, or another command's run.
    """
    check_path(folder)
    refuse_foreign_folder(folder)
    about = About.read(folder)
    if about is not None and _begun(folder):
        _of_command(folder, about, command)


def _begun(folder: Path) -> bool:
    # A reproduction has no stages of its own, and a plan from its first step on.
    return any((folder / "stages").glob("*.json")) or (folder / "plan.json").exists()


def _made(folder: Path) -> bool:
    """Make a folder; whether it was not there."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def _forget(folder: Path, *, made: bool) -> None:
    """Remove what a run left that was refused before it did anything, such as for a model that is not there.

    Args:
        folder: of the run.
        made: by it, so that the folder goes, too.
    """
    with suppress(OSError):  # it may be gone: what is told is why the run was refused
        if {file.name for file in folder.iterdir()} == {ABOUT, ".lock"}:
            for name in (ABOUT, ".lock"):
                (folder / name).unlink()
            if made:
                folder.rmdir()


def _of_command(folder: Path, found: About, command: str) -> None:
    if found.command != command:
        raise DposcopeError(f"{folder} holds a run of '{found.command}'; choose another --out, or delete that folder")


def _clear_scraps(folder: Path) -> None:
    """Remove what a killed process left half-written; whoever holds the lock is the only writer."""
    for scrap in [*folder.glob(".*.part"), *folder.glob("*/.*.part"), *folder.glob(f".{CHECKPOINT}-*")]:
        if scrap.is_dir():
            shutil.rmtree(scrap, ignore_errors=True)
        else:
            scrap.unlink(missing_ok=True)


def _check_settings(folder: Path, found: About, command: str, wanted: Mapping[str, Any]) -> None:
    """Refuse settings that are not those of the run that is there.

    Raises:
        DposcopeError: they are others, or it is a run of another command.
    """
    _of_command(folder, found, command)
    other = other_setting(found.settings, wanted)
    if other is not None:
        raise DposcopeError(
            f"{folder} holds another run's results ({other}); choose another --out, or delete that folder"
        )
