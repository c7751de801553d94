"""Edits that come with dposcope, learned for bundled models. Each file tells how it was made; docs have the results."""

from pathlib import Path

from dposcope.artefacts import check_path, value_files
from dposcope.errors import DposcopeError
from dposcope.files import expanded
from dposcope.interventions.edit import Edit

_FOLDER = Path(__file__).parents[1] / "data" / "edits"


def shipped_edits() -> tuple[str, ...]:
    """Names of the bundled models that have one."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.safetensors")))


def shipped_edit(model: str) -> Edit:
    """The edit learned for a bundled model.

    Args:
        model: its name, as `dposcope models` lists it.

    Raises:
        DposcopeError: there is none for it.
    """
    if model not in shipped_edits():
        raise DposcopeError(
            f"no edit comes with dposcope for {model!r}, only for {', '.join(shipped_edits())}; "
            "dposcope tune makes one for any model"
        )
    return Edit.load(_FOLDER / model)


def edit_file(named: str | Path) -> Path:
    """Path of an edit, without suffix, by a file, a stem, a run's folder, or the name of a bundled model.

    Args:
        named: `runs/mine/edit.safetensors`, `runs/mine/edit`, `runs/mine`, or `gemma-3-270m`.

    Raises:
        DposcopeError: see `check_path`; or it is a folder without an edit.
    """
    path = expanded(named)
    check_path(path)
    # The folder that one is in has no name, and is no file.
    if not path.name or value_files(path / "edit").about.exists():
        return path / "edit"
    if not value_files(path).about.exists() and str(named) in shipped_edits():
        return _FOLDER / str(named)
    if holds_no_edit(named):
        raise DposcopeError(
            f"{path} holds no edit.safetensors; name an edit's file, or the folder of a run that made one"
        )
    return path


def holds_no_edit(named: str | Path) -> bool:
    """Whether a folder is named that is no run with an edit, no stem of one, and no bundled name."""
    path = expanded(named)
    return (
        bool(path.name)
        and path.is_dir()
        and str(named) not in shipped_edits()
        and not any(value_files(stem).about.exists() for stem in (path, path / "edit"))
    )
