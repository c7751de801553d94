"""What stands beside the base in an explanation: a tuned model, or an edit of the base."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from dposcope.artefacts import value_files
from dposcope.errors import DposcopeError
from dposcope.interventions.change import Intervention
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import edited
from dposcope.interventions.shipped import edit_file
from dposcope.interventions.weights import OtherWeights
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load

PREFIX = "edit:"
"""Says that an edit is meant where a model of that name could be, as in `edit:gemma-3-270m`."""


def edit_named(source: str | Path) -> Path | None:
    """The stem of the edit that `source` names, or None where it names a model.

    Args:
        source: `edit:NAME`, an edit's file, or a folder that holds `edit.safetensors` and is no checkpoint; whatever
            else is a model.

    Raises:
        DposcopeError: after `edit:` there is none.
    """
    name = str(source)
    if name.startswith(PREFIX):
        return _existing(edit_file(name.removeprefix(PREFIX)), name)
    path = Path(source).expanduser()
    if path.is_dir() and not (path / "config.json").exists() and value_files(path / "edit").about.exists():
        return path / "edit"
    if path.suffix == ".safetensors" and value_files(path).about.exists():
        return path
    return None


def _existing(path: Path, name: str) -> Path:
    if not value_files(path).about.exists():
        raise DposcopeError(f"{name} names no edit; give its edit.safetensors, its run's folder or a bundled model")
    return path


@contextmanager
def tuned_side(source: str | Path, base: LanguageModel) -> Generator[LanguageModel]:
    """The model to compare `base` with, inside the context.

    Args:
        source: a checkpoint, an adapter, a bundled name, a hub id, or an edit (see `edit_named`).
        base: the plain model.

    Raises:
        DposcopeError: there is no such model or edit, or it does not belong to `base`.
    """
    stem = edit_named(source)
    if stem is None:
        yield load(source, base=base)
        return
    with edited(base, Edit.load(stem)) as other:
        yield other


def in_base(source: str | Path) -> Intervention:
    """The same as an intervention on the base."""
    stem = edit_named(source)
    return OtherWeights(source) if stem is None else Edit.load(stem)
