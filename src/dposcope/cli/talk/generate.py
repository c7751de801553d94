"""`dposcope generate`."""

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dposcope.cli.talk.opening import opened
from dposcope.jobs.numbers import BatchSize, Count, SignedStrength, within
from dposcope.talk.settings import TalkSettings

if TYPE_CHECKING:
    from dposcope.talk.session import Answered, Session


def generate(
    model: str,
    /,
    *,
    prompt: Annotated[list[str] | None, Parameter(negative_iterable=())] = None,
    prompts: str | None = None,
    prompt_column: str = "prompt",
    limit: Annotated[int | None, Parameter(validator=within(Count | None))] = None,
    strength: Annotated[
        list[float] | None,
        Parameter(consume_multiple=True, negative_iterable=(), validator=within(list[SignedStrength] | None)),
    ] = None,
    settings: Annotated[TalkSettings, Parameter(name="*")] = TalkSettings(),  # noqa: B008 — frozen
    batch_size: Annotated[int | None, Parameter(validator=within(BatchSize | None))] = None,
    raw: bool = False,
    json: bool = False,
    quiet: bool = False,
) -> None:
    """Write texts with the plain and with the edited model, side by side.

    dposcope generate gemma-3-270m --strength 0 0.5 1

    dposcope generate runs/first --prompt "He said that" --prompt "Well," --new-tokens 60

    A base model continues the prompts; a chat model answers them through its chat template (--chat).

    Parameters
    ----------
    model
        A bundled name (see dposcope models), a folder, a .gguf file, a Hugging Face id, or the folder of a finished run
        of edit, tune or dpo --train gains.
    prompt
        A prompt; may be given several times. Default: those of --prompts, or a few built-in ones.
    prompts
        More prompts: a text file with one prompt a line, JSONL, CSV, TSV, JSON, Parquet, or hub:owner/name.
        Default: none.
    prompt_column
        Column of --prompts, if it is a table.
    limit
        Use only the first so many of --prompts. Default: all.
    strength
        Strengths of the edit, one column each: 0 is the plain model, 1 the edit as it is, 0.5 half of it. Default: 0 1;
        without an edit 0.
    batch_size
        Prompts at a time. Default: up to 128, as many as take 4 GB beside the model's weights.
    raw
        Show offensive words without stars.
    json
        Print the texts as JSON.
    quiet
        No progress bars.
    """
    from dposcope.cli.console import print_beside, reporting
    from dposcope.data.prompts import load_prompts
    from dposcope.errors import DposcopeError
    from dposcope.talk.prompts import own_prompts
    from dposcope.talk.shown import shown
    from dposcope.talk.subject import Subject
    from dposcope.terminal import print_json, say

    if limit is not None and prompts is None:
        raise DposcopeError("--limit is for --prompts; give that, or leave --limit out")
    given = [*(prompt or []), *([] if prompts is None else load_prompts(prompts, column=prompt_column, limit=limit))]
    with reporting(quiet=quiet) as bars:
        bars.stage(f"Loading {model}")
        session = opened(Subject.find(model, settings.edit), settings)
        strengths = list(dict.fromkeys(strength or ([0.0] if session.edit is None else [0.0, 1.0])))
        bars.stage("Writing")
        texts = session.answers(
            given or own_prompts(session.lm), strengths, batch_size=batch_size, progress=bars.progress
        )
    if json:
        print_json(_told(session, texts, settings, raw=raw))
        return
    say(f"{session.lm.name} {session.manner}; edit: {session.edit or 'none'}")
    for one in texts:
        say("")
        say(f"> {shown(one.prompt, raw=raw)}")
        print_beside({_name(answer.strength): shown(answer.text, raw=raw).strip() for answer in one.answers})


def _name(strength: float) -> str:
    return "plain" if strength == 0 else f"strength {strength:g}"


def _told(session: "Session", texts: "list[Answered]", settings: TalkSettings, *, raw: bool) -> dict[str, Any]:
    """What a program reads; its words are masked, too."""
    from dposcope.data.masking import mask_offensive

    def words(text: str) -> str:
        return text if raw else mask_offensive(text)

    return {
        "model": session.lm.name,
        "edit": session.edit_told,
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
