"""`dposcope serve`."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from pydantic import Field

from dposcope.cli.failure import INTERRUPTED, leave
from dposcope.cli.talk.opening import opened, tell_notes
from dposcope.jobs.numbers import within
from dposcope.talk.settings import TalkSettings

if TYPE_CHECKING:
    from dposcope.talk.web.server import TalkServer

_Port = Annotated[int, Field(ge=0, le=65_535)]


def serve(
    model: str,
    /,
    *,
    port: Annotated[int, Parameter(validator=within(_Port))] = 8765,
    settings: Annotated[TalkSettings, Parameter(name="*")] = TalkSettings(),  # noqa: B008 — frozen
    quiet: bool = False,
) -> None:
    """Open a local web page where the plain and the edited model answer side by side.

    dposcope serve gemma-3-270m

    dposcope serve runs/first --port 9000

    The page has a dial for the strength, scores of both answers, and the neurons that the edit changes most. Only this
    machine can open it, at the address that is printed. Nothing is sent anywhere. Ctrl-C ends it.

    Parameters
    ----------
    model
        A bundled name (see dposcope models), a folder, a .gguf file, a Hugging Face id, or the folder of a finished run
        of edit, tune or dpo --train gains.
    port
        Port of the page; 0 for any free one.
    quiet
        No progress bars.
    """
    from dposcope.cli.console import reporting
    from dposcope.talk.subject import Subject
    from dposcope.talk.web.answering import Answering
    from dposcope.talk.web.server import TalkServer
    from dposcope.terminal import say

    server = TalkServer(port)
    try:
        with reporting(quiet=quiet) as bars:
            bars.stage(f"Loading {model}")
            subject = Subject.find(model, settings.edit, needed=True)
            session = opened(subject, settings)
            bars.stage("Reading neurons")
            server.open(Answering.of(session, scorer=subject.scorer))
        say(f"{session.lm.name} {session.manner}; edit: {session.edit_told}")
        tell_notes(session)
        say(f"open {server.address}")
        say("Only this machine can. Ctrl-C ends it.")
        server.serve_forever()
    except KeyboardInterrupt:
        say("")  # below the ^C of a terminal
        if server.writing.locked():
            say("Waiting for the answer that is being written; Ctrl-C again ends at once.")
    finally:
        _end(server)


def _end(server: "TalkServer") -> None:
    try:
        server.end()
    except KeyboardInterrupt:
        leave(INTERRUPTED)  # no thread may meet the end of the interpreter in its work
