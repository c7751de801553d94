"""What a value shows of itself at a console: its kind, and of each field the shape, the number or the count."""

import dataclasses
from collections.abc import Collection, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, cast

from dposcope.foreign_text import visible

LONGEST: Final = 160
"""Characters."""
_TEXT: Final = 32
_ARRAYS: Final = ("Tensor", "Parameter", "ndarray")


def short_repr(self: Any) -> str:
    """For `__repr__` of a dataclass: at most 160 characters, and no numbers of a tensor."""
    shown = [f"{one.name}={_told(getattr(self, one.name))}" for one in dataclasses.fields(self) if one.repr]
    whole = f"{type(self).__name__}({', '.join(shown)})"
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 3]} …)"


def _told(value: Any) -> str:
    kind = type(value).__name__
    if value is None or isinstance(value, bool | int):
        return str(value)
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, str | Path):
        text = visible(str(value))
        return repr(text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…")
    if kind in _ARRAYS:  # named, so that torch need not be there
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        named = cast(Mapping[str, object], value)
        model = named.get("model")
        return f"{{{len(named)}}}" if model is None else f"{{{len(named)}, model {_told(model)}}}"
    if isinstance(value, Collection):
        return f"[{len(cast(Collection[object], value))}]"
    return kind
