"""Whether the edit was made for the model that answers."""

from dposcope.jobs.origin import Fingerprints
from dposcope.model.language_model import LanguageModel
from dposcope.shipping.origin import checkpoint_origin
from dposcope.talk.subject import Subject


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
    notes = checkpoint_origin(subject.edit, lm.model.config.model_type, Fingerprints(lm, subject.model))
    return notes if subject.elsewhere is None or not notes else (*notes, subject.elsewhere)
