"""What was trained before, as a line of strengths: a saved edit, a tuned checkpoint or an adapter."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.rivals.lines import Line
from benchmarks.rivals.replaced import Folded, Replaced
from torch import Tensor

from dposcope.artefacts import file_digest, read_json, text_digest
from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load


def edit_line(name: str, edit: Edit) -> Line:
    """1 + s (g − 1) and s w: a line through the edit itself at s = 1."""
    return Line(name, lambda s: Folded(edit.strength(s)), start=1.0, most=4.0, always=(1.0,))


def tuned_line(name: str, folder: str) -> Line:
    """W₀ + s (W₁ − W₀): from the base through the tuned model at s = 1 and a little beyond."""
    return Line(name, lambda s: interpolated(folder, s), start=1.0, most=2.0, always=(1.0,))


def interpolated(folder: str, strength: float) -> Replaced:
    """Every weight on the straight line through base and tuned model.

    Args:
        folder: of the tuned model or adapter.
        strength: s.
    """

    def make(lm: LanguageModel) -> dict[str, Tensor]:
        other = load(folder, base=lm)
        own, tuned = dict(lm.model.named_parameters()), dict(other.model.named_parameters())
        if own.keys() != tuned.keys() or any(own[name].shape != tuned[name].shape for name in own):
            raise DposcopeError(f"{folder} has other parameters than {lm.name}; give a model tuned from it")
        return {name: _between(own[name], tuned[name], strength) for name in own}

    return Replaced(make)


def _between(own: Tensor, tuned: Tensor, strength: float) -> Tensor:
    if strength == 1:
        return tuned.detach()
    return own.float() + strength * (tuned.float() - own.float())


def tuned_digest(folder: str) -> str:
    """Of its weights and settings."""
    files = [file for kind in ("*.safetensors", "*config.json") for file in sorted(Path(folder).glob(kind))]
    if not any(file.suffix == ".safetensors" for file in files):
        raise DposcopeError(f"{folder} holds no safetensors weights; give the folder of a checkpoint or an adapter")
    return text_digest(*(f"{file.name} {file_digest(file)}" for file in files))


def minutes_of(made: str) -> float | None:
    """What the run that made an edit or checkpoint took, measuring left out, as far as its folder tells."""
    folder = Path(made).parent
    seconds = [
        float(_record(file).get("seconds", 0.0))
        for file in sorted(folder.rglob("stages/*.json"))
        if not file.stem.startswith("measure-")
    ]
    return sum(seconds) / 60 if seconds else None


def _record(file: Path) -> Mapping[str, float]:
    found = read_json(file)
    return found if isinstance(found, dict) else {}
