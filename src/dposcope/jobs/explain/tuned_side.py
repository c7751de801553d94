"""The model that an explanation compares with the base: a tuned model, or an edit of the base."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from dposcope.artefacts import value_files
from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import EditedModel
from dposcope.interventions.tuned import edit_stem
from dposcope.interventions.weights import OtherWeights
from dposcope.jobs.dpo.training_record import TrainingRecord
from dposcope.jobs.finished import CHECKPOINT
from dposcope.jobs.origin import Fingerprints, asked_otherwise, comes_together
from dposcope.model.language_model import LanguageModel
from dposcope.shipping.origin import checkpoint_origin


@dataclass(frozen=True, eq=False)
class TunedSide:
    """A tuned model by its name, or an edit. An edit is read once, so a later change of its file has no effect."""

    source: str
    edit: Edit | None = None
    training: TrainingRecord | None = None
    """Record of the training, if `dposcope dpo` made it; else None."""
    stream: Path | None = None
    """A folder for the weights of its blocks, while it is in use; None: they are in memory."""

    @classmethod
    def read(cls, source: str | Path, *, stream: Path | None = None) -> "TunedSide":
        """Find out what `source` names.

        Args:
            source: a checkpoint, an adapter, a bundled name, a hub id, or an edit (see `edit_stem`).
            stream: see `stream`. An edit has the weights of its base, so nothing is streamed.

        Raises:
            DposcopeError: an edit that is named is not there, or damaged.
        """
        stem = edit_stem(source)
        return cls(str(source), None if stem is None else Edit.load(stem), training_of(source), stream)

    @property
    def label(self) -> str:
        """Label of its rows in tables."""
        return "DPO" if self.training is not None else "Tuned model" if self.edit is None else "Edit"

    @property
    def notes(self) -> list[str]:
        """Notes that a reader of the numbers needs."""
        if self.edit is not None:
            return ["its gains act on activations, so no value vector changes"]
        folder = Path(self.source)
        edit = folder.parent / "edit"
        if folder.name != CHECKPOINT or not folder.is_dir() or not value_files(edit).tensors.exists():
            return []
        return [
            "an edit's gains are folded into its value vectors, so patching activations does not include them; explain "
            f"edit:{folder.parent} to have them in the activations"
        ]

    def doubts(self, base: LanguageModel, name: str) -> tuple[str, ...]:
        """Whether an edit was made for the base, asked alike: what a person should know; empty where it was.

        Args:
            base: loaded, as it is asked. Its weights are read.
            name: of the base, as it was loaded.

        Raises:
            DposcopeError: the edit was made for another architecture.
        """
        stem = edit_stem(self.source)
        if self.edit is None:
            return ()
        alike = asked_otherwise(self.edit, base)
        if stem is not None and comes_together(name, stem):
            return alike
        return (*checkpoint_origin(self.edit, base.model.config.model_type, Fingerprints(base, name)), *alike)

    def second_model(self, base: LanguageModel) -> AbstractContextManager[LanguageModel]:
        """The tuned or edited model, loaded as a second model inside the context.

        Raises:
            DposcopeError: there is no such model, or it does not fit `base`.
        """
        return self.intervention().second_model(base)

    def intervention(self) -> OtherWeights | EditedModel:
        """The same model as an intervention on the base."""
        return OtherWeights(self.source, self.stream) if self.edit is None else EditedModel(self.edit)


def training_of(source: str | Path) -> TrainingRecord | None:
    """The record of a checkpoint or an edit that `dposcope dpo` wrote; None for any other."""
    # The job writes OUT/training.json, OUT/model and, with gains, OUT/edit. A hub id is not a folder, so the file
    # training.json in the working folder does not belong to it.
    stem = edit_stem(source)
    path = (stem or Path(source)).parent / "training.json"
    written = stem.stem == "edit" if stem is not None else Path(source).name == CHECKPOINT and Path(source).is_dir()
    if not written or not path.is_file():
        return None
    try:
        return TrainingRecord.load(path)
    except DposcopeError:
        return None  # the file has another format; the run then only lacks one table
