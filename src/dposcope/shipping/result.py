"""What shipping an edit did, for people and scripts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Shipped:
    """An edit in one of its forms."""

    form: str
    """`checkpoint`, `quantised checkpoint`, `adapters` or `gguf`."""
    path: Path
    tensors: int
    """Tensors that differ from the original's; of adapters, tensors written."""
    rounding: float
    """The largest error of rounding, as a share of the largest value of its tensor (of block formats, of its scales);
    0 where nothing was rounded."""
    notes: tuple[str, ...] = ()
    """What to know before using it, in words."""

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON."""
        return {
            "form": self.form,
            "path": str(self.path),
            "tensors": self.tensors,
            "rounding": self.rounding,
            "notes": list(self.notes),
        }
