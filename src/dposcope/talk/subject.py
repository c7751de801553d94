"""What is talked to: a model and an edit of it, by the names that a person gives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dposcope.artefacts import value_files
from dposcope.errors import DposcopeError
from dposcope.files import expanded
from dposcope.interventions.edit import Edit
from dposcope.interventions.shipped import shipped_edits
from dposcope.interventions.tuned import PREFIX, edit_stem
from dposcope.jobs.finished import ABOUT, CHECKPOINT, About, refuse_changed
from dposcope.model.bundled import BUNDLED
from dposcope.model.load import check_source

_MAKERS: Final = ("edit", "tune", "dpo")
"""Commands whose runs leave an edit."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model and an edit of it, neither of them loaded into the other."""

    model: str
    """As `load` takes it."""
    edit: Edit | None
    named: str = ""
    """What the edit is called: its path, or the bundled model that it comes with."""
    scorer: str | None = None
    """The scorer that a run was made with."""
    layout: str | None = None
    """The layout that a run was made with, see `read_layout`."""
    run: Path | None = None
    """The folder of the run that named the model."""

    @property
    def comes_together(self) -> bool:
        """Whether both come with dposcope: a bundled model, whose file is checked by its digest, and its own edit."""
        return self.model in shipped_edits() and self.named == self.model and not expanded(self.model).exists()

    @property
    def elsewhere(self) -> str | None:
        """Where the model may be instead of here; None where its name means the same everywhere."""
        path = expanded(self.model)
        if self.run is None or path.is_absolute() or (self.model in BUNDLED and not path.exists()):
            return None
        return (
            f"the run in {self.run} calls its model {self.model!r}, a path from the folder in which the run was "
            f"started: go there, or give the model itself and --edit {self.named}"
        )

    @classmethod
    def find(cls, named: str, edit: str | None = None, *, needed: bool = False) -> "Subject":
        """Find both by name; the model is not loaded.

        Args:
            named: a model, or the folder of a finished run of `edit`, `tune` or `dpo --train gains`.
            edit: see `edit_stem`, with or without the prefix; None: of a run, its own; of a bundled model, the one that
                comes with dposcope.
            needed: whether there must be an edit.

        Raises:
            DposcopeError: there is no such model, run or edit; or the run is not finished, was changed, or made none;
                or there is no edit, and one is needed.
        """
        about = None if named.startswith(PREFIX) else About.read(expanded(named))
        if about is not None:
            return cls._of_run(expanded(named), about, edit)
        check_source(named)
        if edit is None and named in shipped_edits() and not expanded(named).exists():
            edit = named
        if edit is not None:
            return cls(named, _loaded(edit), edit)
        if needed:
            raise DposcopeError(
                f"no edit comes with dposcope for {named}; give one with --edit, or make one with: "
                "dposcope edit MODEL --out runs/first"
            )
        return cls(named, None)

    @classmethod
    def _of_run(cls, folder: Path, about: About, edit: str | None) -> "Subject":
        if about.command not in _MAKERS:
            raise DposcopeError(
                f"{folder} is a run of dposcope {about.command}, which makes no edit; name a model, or a run of edit, "
                "tune or dpo --train gains"
            )
        model, scorer, layout = (_text(about.settings, name, folder) for name in ("model", "scorer", "layout"))
        if model is None:
            raise DposcopeError(f"{folder / ABOUT} names no model; run the same command there again")
        if edit is not None:
            return cls(model, _loaded(edit), edit, scorer, layout, folder)
        if about.finished is None:
            raise DposcopeError(f"the run in {folder} is not finished; run the same command again to continue")
        files = value_files(folder / "edit")
        if not all(file.exists() for file in files.both):
            tuned = folder / CHECKPOINT
            mend = f"talk to its model: {tuned}" if tuned.exists() else "give one with --edit"
            raise DposcopeError(f"the run in {folder} left no edit; {mend}")
        refuse_changed(folder, [file.name for file in files.both])
        return cls(model, _loaded(str(folder)), str(folder), scorer, layout, folder)


def _loaded(edit: str) -> Edit:
    stem = edit_stem(PREFIX + edit.removeprefix(PREFIX))
    assert stem is not None
    return Edit.load(stem)


def _text(settings: dict[str, Any], name: str, folder: Path) -> str | None:
    value = settings.get(name)
    if value is not None and not isinstance(value, str):
        raise DposcopeError(
            f"{folder / ABOUT} is damaged: settings.{name} is no text; run the same command there again"
        )
    return value
