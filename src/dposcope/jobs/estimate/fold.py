"""What `dposcope fold` does."""

from pathlib import Path

from dposcope.errors import DposcopeError
from dposcope.files import expanded
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import projection_edits
from dposcope.jobs.estimate.work import Memory, Running, Stage, Work
from dposcope.model.outline import outline
from dposcope.model.size import ModelSize
from dposcope.shipping.skeleton import checkpoint_folder

_AT_ONCE = 4.0
"""Copies of the largest tensor while it is read, changed and digested."""


def fold_work(model: str, out: Path, edit: Edit, *, form: str | None) -> Work:
    """Check what can be checked without weights, and count.

    Args:
        model: a folder, a bundled name or a .gguf file.
        out: the new folder or file.
        edit: to fold.
        form: `checkpoint` or `adapters`; None: that of the model.

    Raises:
        DposcopeError: bad input: there is no such model, the edit does not fit it, or `out` exists.
    """
    if out.exists():
        raise DposcopeError(f"{out} exists already; choose another --out, or remove it first")
    found = outline(model)
    path = expanded(model)
    gguf = path.suffix == ".gguf" and not path.is_dir()
    if not gguf:
        projection_edits(found.lm, edit)
        stored = float(found.size.parameters * found.stored.itemsize)
    else:
        checked = edit.gains_alone()
        projection_edits(found.lm, checked)
        stored = float(path.stat().st_size)
    if not gguf:
        checkpoint_folder(model)
    written = 8.0 * found.size.neurons if form == "adapters" else stored + found.beside
    stages = fold_stages(found.size, found.stored.itemsize, stored=stored, written=written)
    return Work("fold", model, Running(found.size, found.stored.itemsize), tuple(stages))


def fold_stages(size: ModelSize, itemsize: int, *, stored: float, written: float) -> list[Stage]:
    """All stages.

    Args:
        size: of the model.
        itemsize: bytes of a stored weight.
        stored: bytes of the model's files, which are read to the end.
        written: bytes of the new ones.
    """
    largest = _AT_ONCE * itemsize * max(size.unembedding, size.width * size.mlp)
    digest = Stage("checking the weights", models=0.0, held=Memory(0.0, data=largest), moved=stored)
    writing = Stage("writing", models=0.0, held=Memory(0.0, data=largest), disk=written, moved=stored + written)
    return [digest, writing]
