"""Whether the edit was made for the model that answers, and for the way in which it is asked."""

from dposcope.jobs.origin import Fingerprints, asked_otherwise
from dposcope.model.language_model import LanguageModel
from dposcope.shipping.origin import checkpoint_origin
from dposcope.talk.subject import Subject


def origin_notes(subject: Subject, lm: LanguageModel) -> tuple[str, ...]:
    """What a person should know before reading answers; nothing where the edit was made for these weights, asked alike.

    Args:
        subject: model and edit.
        lm: the model, loaded, as it is asked.

    Raises:
        DposcopeError: the edit was made for another architecture.
    """
    if subject.edit is None:
        return ()
    otherwise = asked_otherwise(subject.edit, lm)
    if subject.comes_together:
        return otherwise
    notes = checkpoint_origin(subject.edit, lm.model.config.model_type, Fingerprints(lm, subject.model))
    elsewhere = () if subject.elsewhere is None or not notes else (subject.elsewhere,)
    return (*notes, *elsewhere, *otherwise)
