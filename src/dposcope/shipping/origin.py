"""Checks whether an edit was made for a model."""

from collections.abc import Iterable

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
    made_for = _fingerprint(edit)
    if made_for is None:
        return ()
    model_type = made_for.rpartition("-")[0]
    known = _GGUF_TYPES.get(architecture)
    if known is not None and model_type not in known:
        raise DposcopeError(
            f"the edit was made for a {model_type} model, but the file holds a {architecture} model; give its own model"
        )
    shape = "×".join(map(str, gains.values.shape))
    return (f"only the shape, {shape} neurons, was checked: the file may be another model than the edit was made for",)


def checkpoint_origin(edit: Edit, model_type: str, fingerprints: Iterable[str]) -> tuple[str, ...]:
    """Notes on whether an edit belongs to a checkpoint. Each of its `fingerprints` may read all weights.

    Raises:
        DposcopeError: the edit was made for another architecture.
    """
    made_for = _fingerprint(edit)
    if made_for is None:
        return ()
    wanted = made_for.rpartition("-")[0]
    if wanted.removesuffix("_text") != model_type.removesuffix("_text"):
        raise DposcopeError(
            f"the edit was made for a {wanted} model, but the checkpoint is a {model_type} model; give its own model"
        )
    if made_for in fingerprints:  # an iterator, which computes the next fingerprint only if this one differs
        return ()
    return ("the edit was made for other weights, or for another precision; its shapes fit this checkpoint",)


def _fingerprint(edit: Edit | Gains | Ablation) -> str | None:
    fingerprint = edit.about.get("fingerprint") if isinstance(edit, Edit) else None
    return fingerprint if isinstance(fingerprint, str) and "-" in fingerprint else None
