"""What was trained before, as a line of strengths: a saved edit, a tuned checkpoint or an adapter."""

from collections.abc import Mapping
from pathlib import Path

from benchmarks.rivals.lines import Line
from benchmarks.rivals.replaced import Folded, Replaced

from dposcope.artefacts import file_digest, text_digest
from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.extrapolate import along
from dposcope.model.load import load
from dposcope.reading import read_object


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

    return Replaced(lambda lm: dict(along(lm, load(folder, base=lm), strength)))


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
    return read_object(file)
