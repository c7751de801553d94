"""Checkpoints of a training that was interrupted: which are whole, and which of them it goes on from."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dposcope.artefacts import write_json
from dposcope.durable import flush
from dposcope.errors import DposcopeError
from dposcope.marks import damage, mark_json, marks, read_marks
from dposcope.reading import read_json

COMPLETE: Final = "whole"
"""The file that is written last into each checkpoint: what its other files are. Without it a checkpoint is no use."""
_STATE: Final = "trainer_state.json"
_NAME: Final = re.compile(r"checkpoint-(0|[1-9]\d*)", re.ASCII)
_BEFORE: Final = 1
"""How many checkpoints are kept beside the newest, in case that one is damaged."""


@dataclass(frozen=True)
class _State:
    """What is read of transformers' own record of a training."""

    best_global_step: int | None


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as whole, once all of it is on the disk."""
    flush(checkpoint)
    found = {name: mark_json(mark) for name, mark in marks(checkpoint, [checkpoint]).items() if name != COMPLETE}
    write_json(checkpoint / COMPLETE, found)


def last_whole(folder: Path, *, needs_best: bool = False) -> Path | None:
    """The newest checkpoint that is as it was written; what is cut short or damaged is removed.

    Args:
        folder: of the training.
        needs_best: whether a checkpoint is of use only together with the best one at that time.
    """
    steps: dict[int, Path] = {}
    for step, checkpoint in _by_step(folder).items():
        if _whole(checkpoint):
            steps[step] = checkpoint
        else:
            _remove(checkpoint)
    for _, checkpoint in sorted(steps.items(), reverse=True):
        if not needs_best or read_json(checkpoint / _STATE, _State).best_global_step in steps:
            return checkpoint
    return None


def any_whole(folder: Path) -> bool:
    """Whether a training could go on; the files are not read."""
    return any((checkpoint / COMPLETE).exists() for checkpoint in _by_step(folder).values())


def remove_older(newest: Path, *, best: int | None) -> None:
    """Keep the newest checkpoint and the one before, and of both the best at that time, if there is one; call it once
    `newest` is whole."""
    older = [one for _, one in sorted(_by_step(newest.parent).items()) if one != newest]
    kept = older[max(len(older) - _BEFORE, 0) :]
    needed = {best, *(_best_of(one) for one in kept if best is not None)}
    for checkpoint in older[: len(older) - len(kept)]:
        if checkpoint.name not in {f"checkpoint-{step}" for step in needed}:
            _remove(checkpoint)


def _by_step(folder: Path) -> dict[int, Path]:
    """Step → its checkpoint. A copy that somebody made, such as `checkpoint-10.bak`, is none, and stays."""
    found = {checkpoint: _NAME.fullmatch(checkpoint.name) for checkpoint in folder.glob("checkpoint-*")}
    return {int(name[1]): checkpoint for checkpoint, name in found.items() if name and checkpoint.is_dir()}


def _best_of(checkpoint: Path) -> int | None:
    """The best step when it was written; None where that cannot be read: it is of no use then."""
    try:
        return read_json(checkpoint / _STATE, _State).best_global_step
    except DposcopeError:
        return None


def _whole(checkpoint: Path) -> bool:
    files = read_marks(checkpoint / COMPLETE)
    return bool(files) and damage(checkpoint, files) is None


def _remove(checkpoint: Path) -> None:
    # The mark goes first: a removal that is interrupted must not leave what looks whole.
    (checkpoint / COMPLETE).unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)
