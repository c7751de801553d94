"""What stands beside the base in an explanation: a tuned model, or an edit of the base."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from dposcope.artefacts import value_files
from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import EditedModel
from dposcope.interventions.shipped import edit_file, shipped_edits
from dposcope.interventions.weights import OtherWeights
from dposcope.jobs.dpo.training_record import TrainingRecord
from dposcope.jobs.run import CHECKPOINT
from dposcope.model.adapter import is_adapter
from dposcope.model.language_model import LanguageModel

PREFIX = "edit:"
"""Says that an edit is meant where a model of that name could be, as in `edit:gemma-3-270m`."""


@dataclass(frozen=True, eq=False)
class TunedSide:
    """As it was named, and where that is an edit, what it holds: read once, whatever becomes of its file meanwhile."""

    source: str
    edit: Edit | None = None
    training: TrainingRecord | None = None
    """Of what `dposcope dpo` made; None of anything else."""

    @classmethod
    def read(cls, source: str | Path) -> "TunedSide":
        """Find out what `source` names.

        Args:
            source: a checkpoint, an adapter, a bundled name, a hub id, or an edit (see `edit_stem`).

        Raises:
            DposcopeError: an edit that is named is not there, or damaged.
        """
        stem = edit_stem(source)
        return cls(str(source), None if stem is None else Edit.load(stem), training_of(source))

    @property
    def label(self) -> str:
        """What rows call it."""
        return "DPO" if self.training is not None else "Tuned model" if self.edit is None else "Edit"

    @property
    def notes(self) -> list[str]:
        """What a reader must know beside the numbers."""
        if self.edit is not None:
            return ["its gains are in the activations, so they move no value vector"]
        folder = Path(self.source)
        beside = folder.parent / "edit"
        if folder.name != CHECKPOINT or not folder.is_dir() or not value_files(beside).tensors.exists():
            return []
        return [
            "an edit's gains are folded into its value vectors, so patched activations do not carry them; explain "
            f"edit:{folder.parent} to have them in the activations"
        ]

    def beside(self, base: LanguageModel) -> AbstractContextManager[LanguageModel]:
        """The model to compare `base` with, inside the context.

        Raises:
            DposcopeError: there is no such model, or it does not fit `base`.
        """
        return self.intervention().beside(base)

    def intervention(self) -> OtherWeights | EditedModel:
        """The same model, to be measured in the base's place."""
        return OtherWeights(self.source) if self.edit is None else EditedModel(self.edit)


def edit_stem(source: str | Path) -> Path | None:
    """Where the edit lies that `source` names, or None where it names a model.

    Args:
        source: `edit:` and a file, a run's folder or a bundled name; or without it an edit's file, or a folder with
            `edit.safetensors` that is neither a checkpoint nor an adapter. Whatever else is a model.

    Raises:
        DposcopeError: after `edit:` there is none.
    """
    name = str(source)
    if name.startswith(PREFIX):
        named = name.removeprefix(PREFIX)
        stem = edit_file(named) if Path(named).name else Path(named) / "edit"
        if not _is_edit(stem):
            own = ", ".join(f"{PREFIX}{model}" for model in shipped_edits())
            raise DposcopeError(
                f"{name} names no edit; give its edit.safetensors, its run's folder, or what ships with dposcope: {own}"
            )
        return stem
    path = Path(source).expanduser()
    if path.is_dir():
        model = (path / "config.json").exists() or is_adapter(path)
        return path / "edit" if not model and _is_edit(path / "edit") else None
    return path if path.name and _is_edit(path) else None


def _is_edit(stem: Path) -> bool:
    return all(file.is_file() for file in value_files(stem).both)


def training_of(source: str | Path) -> TrainingRecord | None:
    """The record of a checkpoint or an edit that `dposcope dpo` wrote; None for any other."""
    # The job leaves OUT/training.json beside OUT/model, and with gains OUT/edit; a hub id is no folder, whatever lies
    # in this one.
    stem = edit_stem(source)
    path = (stem or Path(source)).parent / "training.json"
    written = stem.stem == "edit" if stem is not None else Path(source).name == CHECKPOINT and Path(source).is_dir()
    if not written or not path.is_file():
        return None
    try:
        return TrainingRecord.load(path)
    except DposcopeError:
        return None  # someone else's; a table less is no reason to lose the run
