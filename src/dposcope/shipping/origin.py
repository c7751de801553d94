"""Whether an edit was made for the model it is put into."""

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
"""`model_type`s of transformers that a GGUF architecture stands for."""


def gguf_origin(edit: Edit | Gains, architecture: str, gains: Gains) -> tuple[str, ...]:
    """What to tell of an edit's origin beside a GGUF file, whose weights have no fingerprint of ours.

    Raises:
        DposcopeError: the edit was made for another architecture.
    """
    made_for = _fingerprint(edit)
    if made_for is None:
        return ()
    model_type = made_for.rpartition("-")[0]
    known = _GGUF_TYPES.get(architecture)
    if known is not None and model_type not in known:
        raise DposcopeError(f"the edit was made for a {model_type} model, and the file holds a {architecture} one")
    shape = "×".join(map(str, gains.values.shape))
    return (f"that this is the model the edit was made for was checked by its shape, {shape} neurons, alone",)


def checkpoint_origin(edit: Edit, model_type: str, fingerprints: Iterable[str]) -> tuple[str, ...]:
    """The same beside a checkpoint; each of its `fingerprints` may read all weights, and is asked for where it helps.

    Raises:
        DposcopeError: the edit was made for another architecture.
    """
    made_for = _fingerprint(edit)
    if made_for is None:
        return ()
    wanted = made_for.rpartition("-")[0]
    if wanted.removesuffix("_text") != model_type.removesuffix("_text"):
        raise DposcopeError(f"the edit was made for a {wanted} model, and the checkpoint is a {model_type} one")
    if made_for in fingerprints:  # of an iterator: the next one is made where this one differs
        return ()
    return ("the edit was made for other weights or another precision of them; its shapes fit this checkpoint",)


def _fingerprint(edit: Edit | Gains | Ablation) -> str | None:
    found = edit.about.get("fingerprint") if isinstance(edit, Edit) else None
    return found if isinstance(found, str) and "-" in found else None
