"""`dposcope generate`."""

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dposcope.cli.talk.opening import opened, tell_notes
from dposcope.talk.settings import GenerateSettings

if TYPE_CHECKING:
    from dposcope.talk.session import Answered, Session


def generate(
    model: str,
    /,
    *,
    settings: Annotated[GenerateSettings, Parameter(name="*")] = GenerateSettings(),  # noqa: B008 — frozen
    raw: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Write texts with the plain and with the edited model, side by side.

    dposcope generate gemma-3-270m --strength 0 0.5 1

    dposcope generate runs/first --prompt "He said that" --prompt "Well," --new-tokens 60

    A chat model answers the prompts through its chat template (--chat); any other model continues them.

    Parameters
    ----------
    model
        A bundled name (see dposcope models), a folder, a .gguf file, a Hugging Face id, or the folder of a finished run
        of edit, tune or dpo --train gains.
    raw
        Show offensive words without stars.
    json
        Print the texts as JSON.
    quiet
        No progress bars.
    """
    from dposcope.cli.console import print_beside, reporting
    from dposcope.data.prompts import load_prompts
    from dposcope.talk.prompts import own_prompts
    from dposcope.talk.shown import NOTHING, shown
    from dposcope.talk.subject import Subject
    from dposcope.terminal import print_json, say

    prompts = list(settings.prompt or [])
    if settings.prompts is not None:
        prompts += load_prompts(settings.prompts, column=settings.prompt_column, limit=settings.limit)
    with reporting(quiet=quiet) as bars:
        bars.stage(f"Loading {model}")
        session = opened(Subject.find(model, settings.edit), settings)
        strengths = list(dict.fromkeys(settings.strength or ([0.0] if session.edit is None else [0.0, 1.0])))
        bars.stage("Writing")
        texts = session.answers(
            prompts or own_prompts(session.lm), strengths, batch_size=settings.batch_size, progress=bars.progress
        )
    if json:
        print_json(_told(session, texts, settings, raw=raw))
        return
    say(f"{session.lm.name} {session.manner}; edit: {session.edit or 'none'}")
    tell_notes(session)
    for one in texts:
        say("")
        say(f"> {shown(one.prompt, raw=raw)}")
        print_beside({_name(answer.strength): shown(answer.text, raw=raw).strip() or NOTHING for answer in one.answers})


def _name(strength: float) -> str:
    return "plain" if strength == 0 else f"strength {strength:g}"


def _told(session: "Session", texts: "list[Answered]", settings: GenerateSettings, *, raw: bool) -> dict[str, Any]:
    """What a program reads; its words are masked, too."""
    from dposcope.data.masking import mask_offensive

    def words(text: str) -> str:
        return text if raw else mask_offensive(text)

    return {
        "model": session.lm.name,
        "edit": session.edit_told,
        "notes": list(session.notes),
        "chat": session.lm.asking is not None,
        "new_tokens": session.new_tokens,
        "sampling": settings.model_dump(include={"temperature", "top_p", "seed"}) if settings.sample else None,
        "texts": [
            {
                "prompt": words(one.prompt),
                "answers": [
                    {"strength": answer.strength, "text": words(answer.text), "tokens": len(answer.ids)}
                    for answer in one.answers
                ],
            }
            for one in texts
        ],
    }
