"""Whether the edit was made for the model that answers."""

from collections.abc import Iterator

import torch

from dposcope.errors import DposcopeError
from dposcope.files import expanded
from dposcope.model.language_model import LanguageModel
from dposcope.shipping.checkpoint import checkpoint_fingerprints
from dposcope.shipping.origin import checkpoint_origin
from dposcope.shipping.skeleton import Skeleton
from dposcope.shipping.stored import Weights
from dposcope.talk.subject import Subject

_LARGE = 1_000_000_000
"""Parameters of a large model."""


def origin_notes(subject: Subject, lm: LanguageModel) -> tuple[str, ...]:
    """What a person should know before reading answers; nothing where the edit was made for these weights.

    Args:
        subject: model and edit.
        lm: the model, loaded.

    Raises:
        DposcopeError: the edit was made for another architecture.
    """
    if subject.edit is None or subject.comes_together:
        return ()
    notes = checkpoint_origin(subject.edit, lm.model.config.model_type, _fingerprints(lm, subject.model))
    return notes if subject.elsewhere is None or not notes else (*notes, subject.elsewhere)


def _fingerprints(lm: LanguageModel, source: str) -> Iterator[str]:
    """As the model runs, then in other precisions: the edit may have been made in one, and the weights be the same.

    Each is a pass over all weights, so of a large model there is only the first.
    """
    yield lm.fingerprint
    if lm.model.num_parameters() > _LARGE:
        return
    for dtype in (torch.bfloat16, torch.float32):
        if dtype != lm.dtype:
            yield lm.fingerprint_in(dtype)
    # What was rounded on loading is whole in the files.
    folder = expanded(source)
    if folder.is_dir():
        try:
            skeleton = Skeleton.of(folder)
            weights = Weights(folder)
            names = skeleton.stored_names(weights)
        except DposcopeError:  # no safetensors, or names that only loading understands
            return
        yield from checkpoint_fingerprints(skeleton, weights, names)
