"""What a name stands for on the tuned side: a model, or an edit of the base."""

from pathlib import Path

from dposcope.artefacts import value_files
from dposcope.errors import DposcopeError
from dposcope.files import expanded
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import EditedModel
from dposcope.interventions.shipped import edit_file, holds_no_edit, shipped_edits
from dposcope.interventions.weights import OtherWeights
from dposcope.model.adapter import is_adapter
from dposcope.model.language_model import LanguageModel
from dposcope.model.outline import outline
from dposcope.model.tuned import check_models

PREFIX = "edit:"
"""Prefix of an edit's name. Without it, the name may mean a model: `edit:gemma-3-270m`, `gemma-3-270m`."""


def tuned_model(source: str | Path) -> OtherWeights | EditedModel:
    """The tuned model or the edit that `source` names, as an intervention on the base; see `edit_stem`.

    Raises:
        DposcopeError: an edit that is named is not there, or damaged.
    """
    stem = edit_stem(source)
    return OtherWeights(source) if stem is None else EditedModel(Edit.load(stem))


def check_tuned(source: str | Path, base: LanguageModel) -> None:
    """Refuse what is no tuned model or edit of `base`, before any weights are read.

    An adapter and a name that is no folder are not looked into: they are checked when they are loaded.

    Args:
        source: see `edit_stem`.
        base: the model before tuning; its weights are not read.

    Raises:
        DposcopeError: an edit has gains or directions of another size; a checkpoint differs in architecture, sizes or
            tokenizer.
    """
    stem, path = edit_stem(source), expanded(source)
    if stem is not None:
        Edit.load(stem).changes(base)
    elif path.is_dir() and not is_adapter(path):
        check_models(base, outline(path).lm)


def edit_stem(source: str | Path) -> Path | None:
    """Path of the edit that `source` names, without suffix; None if `source` names a model.

    Args:
        source: `edit:` and a file, a run's folder or a bundled name; or without it an edit's file, or a folder with
            `edit.safetensors` that is neither a checkpoint nor an adapter. Everything else is a model.

    Raises:
        DposcopeError: `source` has the prefix, but there is no such edit.
    """
    name = str(source)
    if name.startswith(PREFIX):
        given = name.removeprefix(PREFIX)
        stem = None if holds_no_edit(given) else edit_file(given)
        if stem is None or not _is_edit(stem):
            own = ", ".join(f"{PREFIX}{model}" for model in shipped_edits())
            raise DposcopeError(
                f"{name} names no edit; give its edit.safetensors, its run's folder, or what comes with dposcope: {own}"
            )
        return stem
    path = expanded(source)
    if path.is_dir():
        model = (path / "config.json").exists() or is_adapter(path)
        return path / "edit" if not model and _is_edit(path / "edit") else None
    return path if path.name and _is_edit(path) else None


def _is_edit(stem: Path) -> bool:
    return all(file.is_file() for file in value_files(stem).both)
