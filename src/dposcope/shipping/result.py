"""The result of shipping an edit, for people and scripts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dposcope.data.short import short_repr


@dataclass(frozen=True)
class Shipped:
    """An edit in one of the formats."""

    form: str
    """`checkpoint`, `quantised checkpoint`, `adapters` or `gguf`."""
    path: Path
    tensors: int
    """Number of changed tensors; for adapters, of written tensors."""
    rounding: float
    """Largest rounding error, as a share of the largest value of its tensor (in block formats, of its scales); 0 if
    nothing was rounded."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""

    __repr__ = short_repr

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON."""
        return {
            "form": self.form,
            "path": str(self.path),
            "tensors": self.tensors,
            "rounding": self.rounding,
            "notes": list(self.notes),
        }
