"""Checks whether an edit was made for a model."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import Ablation
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains

_GGUF_TYPES = {
    "llama": ("llama", "mistral"),
    "gemma": ("gemma",),
    "gemma2": ("gemma2",),
    "gemma3": ("gemma3", "gemma3_text"),
    "qwen2": ("qwen2",),
    "qwen3": ("qwen3",),
    "gpt2": ("gpt2",),
    "smollm3": ("smollm3",),
}
"""GGUF architecture → its `model_type`s in transformers."""


def gguf_origin(edit: Edit | Gains, architecture: str, gains: Gains) -> tuple[str, ...]:
    """Notes on whether an edit belongs to a GGUF file, whose weights have no fingerprint.

    Raises:
        DposcopeError: the edit was made for another architecture.
    """
    made_for = _made_for(edit)
    if made_for is None:
        return ()
    known = _GGUF_TYPES.get(architecture)
    if known is not None and made_for.model_type not in known:
        raise DposcopeError(
            f"the edit was made for a {made_for.model_type} model, but the file holds a {architecture} model; give its "
            "own model"
        )
    shape = "×".join(map(str, gains.values.shape))
    return (f"only the shape, {shape} neurons, was checked: the file may be another model than the edit was made for",)


def checkpoint_origin(edit: Edit, model_type: str, fingerprints: Iterable[str]) -> tuple[str, ...]:
    """Notes on whether an edit belongs to a model. Each of its `fingerprints` may read all weights.

    Raises:
        DposcopeError: the edit was made for another architecture.
    """
    made_for = _made_for(edit)
    if made_for is None:
        return ()
    if made_for.model_type.removesuffix("_text") != model_type.removesuffix("_text"):
        raise DposcopeError(
            f"the edit was made for a {made_for.model_type} model, but this is a {model_type} model; give its own model"
        )
    for fingerprint in fingerprints:  # an iterator, which computes the next one only if this one differs
        found = _Fingerprint.of(fingerprint)
        if found == made_for:
            return ()
        if found.weights == made_for.weights:
            mend = "give the file that it was made with as --layout" if made_for.layout else "leave --layout out"
            return (f"the edit was made for these weights with another layout, so it may change other neurons; {mend}",)
    return ("the edit was made for other weights, or for another precision; its shapes fit this model",)


@dataclass(frozen=True)
class _Fingerprint:
    """The parts of `LanguageModel.fingerprint`."""

    model_type: str
    weights: str
    """Type and digest."""
    layout: str
    """The mark of a layout that was registered for the type; empty for one that comes with dposcope."""

    @classmethod
    def of(cls, fingerprint: str) -> "_Fingerprint":
        whole = _WHOLE.fullmatch(fingerprint)
        if whole is None:  # a file may hold any word here
            return cls(fingerprint.rpartition("-")[0], fingerprint, "")
        return cls(whole["type"], whole["weights"], whole["layout"] or "")


_WHOLE: Final = re.compile(r"(?P<weights>(?P<type>.+?)-[0-9a-f]{32})(-(?P<layout>[0-9a-f]{8}))?(-.+)?")


def _made_for(edit: Edit | Gains | Ablation) -> _Fingerprint | None:
    fingerprint = edit.about.get("fingerprint") if isinstance(edit, Edit) else None
    return _Fingerprint.of(fingerprint) if isinstance(fingerprint, str) and "-" in fingerprint else None
