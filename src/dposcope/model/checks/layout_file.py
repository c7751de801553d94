"""A layout in a file: where a model keeps its parts, in TOML, for a model type that dposcope does not know.

The file may come from a stranger. It holds names of modules and numbers, and nothing in it is run.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, cast

from dposcope.artefacts import check_path
from dposcope.errors import DposcopeError
from dposcope.files import MOST_SETTINGS, expanded
from dposcope.foreign_text import visible
from dposcope.model.layout.table import Layout, expect_layout, register_layout
from dposcope.reading import parse_object, read_toml

_LONGEST: Final = 200
"""Letters of a path, and of a name of a model type."""
_MOST_PATHS: Final = 8
"""Paths of one part: a model has so few kinds of blocks."""
_PATH: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.([A-Za-z_][A-Za-z0-9_]*|[0-9]+))*")
"""Names of modules with dots between them; a number is a place in a list of modules."""
_TYPE: Final = re.compile(r"[A-Za-z0-9_.-]+")
_MEND: Final = 'write one `name = "value"` per line, as docs/how-to/own-model.md shows'


@dataclass(frozen=True)
class LayoutFile:
    """What such a file says."""

    model_type: str
    """`model_type` in the model's config.json."""
    layout: Layout

    def to_json(self) -> str:
        """The same in one line, as records of runs keep it; `read_layout` takes it, too."""
        told = {"model_type": self.model_type, **asdict(self.layout), "final_norm": self.layout.final_norm or False}
        return json.dumps({name: value for name, value in told.items() if value is not None})


def read_layout(source: str | Path) -> LayoutFile:
    """Read a layout.

    Args:
        source: path of a TOML file; or the object in JSON that the record of a run has.

    Raises:
        DposcopeError: there is no such file; it is too large or no TOML; a field is unknown, missing or of another
            kind; or a path is more than names of modules with dots between them.
    """
    text = str(source)
    if text.lstrip().startswith("{"):
        if len(text.encode()) > MOST_SETTINGS:
            raise DposcopeError(f"the layout is longer than {MOST_SETTINGS:,} bytes; {_MEND}")
        return _checked(parse_object(text, source="the layout", mend=_MEND), "the layout")
    path = expanded(source)
    check_path(path)
    if not path.exists():
        raise DposcopeError(f"there is no layout file {path}; check the path")
    return _checked(read_toml(path, mend=_MEND), str(path))


def use_layout(source: str | Path | None) -> None:
    """Let the models that are loaded from now on have this layout.

    Args:
        source: see `read_layout`; None: no layout is given.

    Raises:
        DposcopeError: see `read_layout`. When a model is loaded: the layout is that of another type.
    """
    expect_layout(None)
    if source is not None:
        found = read_layout(source)
        register_layout(found.model_type, found.layout)
        expect_layout(found.model_type)


def _checked(given: Mapping[str, Any], source: str) -> LayoutFile:
    values: dict[str, Any] = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in _FIELDS:
            fields = ", ".join(_FIELDS)
            raise DposcopeError(f"{source} has an unknown field {visible(key)[:80]!r}; choose among {fields}")
        if name in values:
            raise DposcopeError(f"{source} has {name} twice, with - and with _; keep one")
        values[name] = _FIELDS[name](value, f"{name} in {source}")
    missing = [name for name in _REQUIRED if name not in values]
    if missing:
        raise DposcopeError(f"{source} has no {missing[0]}; a layout needs {', '.join(_REQUIRED)}")
    return LayoutFile(values.pop("model_type"), Layout(**values))


def _model_type(value: Any, place: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST or not _TYPE.fullmatch(value):
        raise DposcopeError(f"{place} is no model type; copy model_type from the model's config.json")
    return value


def _path(value: Any, place: str) -> str:
    if not isinstance(value, str) or len(value) > _LONGEST or not _PATH.fullmatch(value):
        raise DposcopeError(f'{place} is no path of a module; write names with dots between them, as in "model.layers"')
    return value


def _paths(value: Any, place: str) -> str | tuple[str, ...]:
    if not isinstance(value, list):
        return _path(value, place)
    several = cast(list[Any], value)
    if not 1 <= len(several) <= _MOST_PATHS:
        raise DposcopeError(f"{place} lists {len(several):,} paths; give 1 to {_MOST_PATHS}")
    return tuple(_path(one, place) for one in several)


def _path_or_none(value: Any, place: str) -> str | None:
    return None if value is False else _path(value, place)


def _positive(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise DposcopeError(f"{place} is no number above 0; write it without quotes, or leave it out")
    return float(value)


def _yes_or_no(value: Any, place: str) -> bool:
    if not isinstance(value, bool):
        raise DposcopeError(f"{place} is neither true nor false; write one of them without quotes, or leave it out")
    return value


_FIELDS: Final[dict[str, Callable[[Any, str], Any]]] = {
    "model_type": _model_type,
    "blocks": _path,
    "mlp_out": _paths,
    "attention_out": _paths,
    "final_norm": _path_or_none,
    "unembedding": _path,
    "logit_scale": _positive,
    "logit_softcap": _positive,
    "alternating": _yes_or_no,
    "transform": _path,
}
_REQUIRED: Final = ("model_type", "blocks", "mlp_out", "attention_out", "final_norm")
