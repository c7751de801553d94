"""`dposcope chat`."""

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dposcope.cli.talk.opening import opened, tell_notes
from dposcope.jobs.numbers import SignedStrength, within
from dposcope.talk.settings import TalkSettings

if TYPE_CHECKING:
    from dposcope.talk.conversation import Conversation

_HELP = (
    "/strength 0.5   set the strength of the edit: 0 is the plain model, 1 the edit as it is",
    "/reset          forget what was said",
    "/help           show this",
    "/quit           leave; so do Ctrl-D and Ctrl-C",
)


def chat(
    model: str,
    /,
    *,
    strength: Annotated[float, Parameter(validator=within(SignedStrength))] = 1.0,
    settings: Annotated[TalkSettings, Parameter(name="*")] = TalkSettings(),  # noqa: B008 — frozen
    raw: bool = False,
    quiet: bool = False,
) -> None:
    """Type a line, and read what the plain and the edited model answer.

    dposcope chat gemma-3-270m

    dposcope chat runs/first --strength 0.5

    A chat model remembers the conversation, on each side its own answers. Any other model continues each line alone.
    /help lists what can be typed beside questions.

    Parameters
    ----------
    model
        A bundled name (see dposcope models), a folder, a .gguf file, a Hugging Face id, or the folder of a finished run
        of edit, tune or dpo --train gains.
    strength
        Strength of the edit: 0 is the plain model, 1 the edit as it is, 0.5 half of it.
    raw
        Show offensive words without stars.
    quiet
        No progress bars.
    """
    from dposcope.cli.console import reporting
    from dposcope.talk.conversation import Conversation
    from dposcope.talk.subject import Subject
    from dposcope.terminal import say, typed

    with reporting(quiet=quiet) as bars:
        bars.stage(f"Loading {model}")
        session = opened(Subject.find(model, settings.edit, needed=True), settings)
    say(f"{session.lm.name} {session.manner}; edit: {session.edit_told}; /help lists commands, /quit leaves")
    tell_notes(session)
    conversation = Conversation(session, strength)
    try:
        for typed_line in typed("> "):
            line = typed_line.strip()
            if line == "/quit":
                return
            if line.startswith("/"):
                _obey(line, conversation)
            elif line:
                _answer(line, conversation, raw=raw)
    except KeyboardInterrupt:
        say("")  # below the ^C of a terminal


def _answer(line: str, conversation: "Conversation", *, raw: bool) -> None:
    from dposcope.errors import DposcopeError
    from dposcope.talk.shown import NOTHING, Stream
    from dposcope.terminal import say, say_on

    for edited, name in ((False, "plain"), (True, f"strength {conversation.strength:g}")):
        say_on(f"{name}: ")
        stream = Stream(raw=raw)
        try:
            answer = conversation.ask(
                line, edited=edited, heard=lambda text, stream=stream: say_on(stream.grow(text.lstrip()))
            )
        except DposcopeError as error:
            if edited:  # both sides have had the same questions
                conversation.withdraw(edited=False)
            say(f"no answer: {error}, or start again with /reset")
            return
        say_on(stream.end(answer.text.strip() or NOTHING))
        say("")


def _obey(line: str, conversation: "Conversation") -> None:
    from pydantic import TypeAdapter, ValidationError

    from dposcope.terminal import say

    name, _, value = line.partition(" ")
    if name == "/help":
        for one in _HELP:
            say(one)
    elif name == "/reset":
        conversation.reset()
        say("What was said is forgotten.")
    elif name == "/strength":
        try:
            if value.strip():
                conversation.strength = TypeAdapter[float](SignedStrength).validate_strings(value.strip())
            say(f"The strength is {conversation.strength:g}.")
        except ValidationError:
            say(f"{value.strip()} is no strength; give a number such as 0.5")
    else:
        say(f"There is no {name}; /help lists what there is.")
