"""From the settings of a command to a session."""

from typing import TYPE_CHECKING

from dposcope.talk.settings import TalkSettings

if TYPE_CHECKING:
    from dposcope.talk.session import Session
    from dposcope.talk.subject import Subject


def opened(subject: "Subject", settings: TalkSettings) -> "Session":
    """Load the model.

    Args:
        subject: model and edit.
        settings: of the command.

    Raises:
        DposcopeError: see `Session.open`.
    """
    from dposcope.model.checks.layout_file import use_layout
    from dposcope.talk.session import Session

    use_layout(settings.layout or subject.layout)
    return Session.open(
        subject,
        **settings.loading,
        chat=settings.chat_options,
        new_tokens=settings.new_tokens,
        sampling=settings.sampling,
    )


def tell_notes(session: "Session") -> None:
    """Say what a person should know of model and edit before reading answers, a line each."""
    from dposcope.terminal import say

    for note in session.notes:
        say(f"note: {note}")
