"""From what a person names to a session."""

from typing import TYPE_CHECKING

from dposcope.talk.settings import TalkSettings

if TYPE_CHECKING:
    from dposcope.talk.session import Session


def opened(model: str, settings: TalkSettings, *, edited: bool = False) -> "Session":
    """Find model and edit, and load them.

    Args:
        model: a model, or the folder of a run.
        settings: of the command.
        edited: whether there must be an edit.

    Raises:
        DposcopeError: see `Subject.find` and `Session.open`.
    """
    from dposcope.talk.session import Session
    from dposcope.talk.subject import Subject

    subject = Subject.find(model, settings.edit)
    if edited:
        subject.with_edit()
    return Session.open(
        subject,
        dtype=settings.dtype,
        device=settings.device,
        chat=settings.chat,
        system=settings.system,
        new_tokens=settings.new_tokens,
        sampling=settings.sampling,
    )
