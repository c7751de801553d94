"""How prompts are put to a model: as messages in the chat template of its tokenizer, or as text that it continues.

A template is a small program in a stranger's file. It writes the conversation as text, with all special tokens, so the
tokenizer adds none: a prompt then begins as the template says, with one begin-of-text token or without.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

from dposcope.data.short import short_repr
from dposcope.data.texts import check_text
from dposcope.data.token_ids import token_ids
from dposcope.errors import DposcopeError, first_line, is_memory
from dposcope.protocols import check_choice

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ChatMode = Literal["auto", "on", "off"]
"""auto: on where the tokenizer has a template."""

Role = Literal["system", "user", "assistant"]
"""Who says a message."""

PLACE: Final = "{prompt}"
"""Where the prompt stands in a wrapper or a prefill."""

_TRIED: Final = "Hello."
"""What a template is tried with before it is used."""


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: Role
    content: str

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Refuse another role, and what is no text."""
        check_choice("role", self.role, get_args(Role))
        check_text("content", self.content)


Prompt = str | tuple[Turn, ...]
"""A text, or a conversation whose last turn is the user's."""


@dataclass(frozen=True)
class Asking:
    """How prompts are put to a chat model."""

    template: str
    """The chat template of the tokenizer."""
    system: str | None = None
    """The system prompt of conversations that bring none; None: the template's own, or none."""
    wrap: str | None = None
    """What the user says, with {prompt} once in it; None: the prompt itself."""
    prefill: str | None = None
    """How the model's answer begins, with the prompt where it says {prompt}; the model goes on from there."""

    __repr__ = short_repr

    def render(self, tokenizer: "PreTrainedTokenizerBase", prompt: Prompt, *, name: str) -> str:
        """The text that the template makes of a prompt, up to where the model writes.

        Args:
            tokenizer: whose template it is.
            prompt: what was said so far.
            name: of the model, for messages.

        Raises:
            DposcopeError: the template fails.
        """
        turns = turns_of(prompt)
        if self.system is not None and turns[0].role != "system":
            turns = (Turn("system", self.system), *turns)
        turns = (*turns[:-1], Turn(turns[-1].role, self.wrapped(turns[-1].content)))
        return self._written(tokenizer, turns, asked=True, name=name) + self.begun(prompt)

    def wrapped(self, text: str) -> str:
        """What the user says to ask for a text."""
        return text if self.wrap is None else self.wrap.replace(PLACE, text)

    def begun(self, prompt: Prompt) -> str:
        """How the answer to a prompt begins, before the model writes."""
        return "" if self.prefill is None else self.prefill.replace(PLACE, turns_of(prompt)[-1].content)

    def _written(self, tokenizer: "PreTrainedTokenizerBase", turns: Sequence[Turn], *, asked: bool, name: str) -> str:
        """A conversation as the template writes it; `asked`: up to where the model's next answer begins."""
        messages = [asdict(turn) for turn in turns]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=asked)
        except Exception as error:  # a stranger's program
            if is_memory(error):
                raise
            raise DposcopeError(f"the chat template of {name} fails ({first_line(error)}); use --chat off") from error
        assert isinstance(text, str)
        return text

    def ending(self, tokenizer: "PreTrainedTokenizerBase", *, name: str) -> int | None:
        """The token that the template writes at the end of an answer; None where it writes none.

        Args:
            tokenizer: whose template it is.
            name: of the model, for messages.

        Raises:
            DposcopeError: the template fails.
        """
        turns = (Turn("user", _TRIED), Turn("assistant", _TRIED))
        _, _, after = self._written(tokenizer, turns, asked=False, name=name).rpartition(_TRIED)
        added = {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
        special = added.union(tokenizer.all_special_ids)
        return next((id for id in token_ids(tokenizer, [after], special=False)[0] if id in special), None)

    def __str__(self) -> str:
        """In a few words, for reports."""
        parts = ["Prompts are messages in the model's chat template"]
        if self.system is not None:
            parts.append(f"with the system prompt “{self.system}”")
        if self.wrap is not None:
            parts.append(f"as “{self.wrap}”")
        if self.prefill is not None:
            parts.append(f"and answers begin with “{self.prefill}”")
        return ", ".join(parts)


def turns_of(prompt: Prompt) -> tuple[Turn, ...]:
    """A prompt as a conversation."""
    return (Turn("user", prompt),) if isinstance(prompt, str) else prompt


@dataclass(frozen=True)
class ChatOptions:
    """What a person chooses of it."""

    mode: ChatMode = "auto"
    system: str | None = None
    """See `Asking`."""
    wrap: str | None = None
    """See `Asking`."""
    prefill: str | None = None
    """See `Asking`."""

    def asking(self, tokenizer: "PreTrainedTokenizerBase", *, name: str) -> Asking | None:
        """Decide it for a tokenizer, and try its template.

        Args:
            tokenizer: of the model.
            name: of the model, for messages.

        Returns:
            None where prompts are text to be continued.

        Raises:
            DposcopeError: there is no template, or it fails; a system prompt, a wrapper or a prefill is given that has
                no place.
        """
        check_choice("chat", self.mode, ("auto", "on", "off"))
        check_wrap(self.wrap)
        check_prefill(self.prefill)
        template = tokenizer.chat_template
        if self.mode == "on" and not template:
            raise DposcopeError(f"the tokenizer of {name} has no chat template; leave --chat on out")
        if not template or self.mode == "off":
            why = "is asked without its chat template" if template else "has no chat template"
            for given, what, option in (
                (self.system, "system prompt", "--system"),
                (self.wrap, "wrapper", "--wrap"),
                (self.prefill, "prefill", "--prefill"),
            ):
                if given is not None:
                    raise DposcopeError(f"{name} {why}, so a {what} has no place; leave {option} out")
            return None
        asking = Asking(str(template), wrap=self.wrap, prefill=self.prefill)
        asking.render(tokenizer, _TRIED, name=name)
        return asking if self.system is None else _with_system(asking, self.system, tokenizer, name)


def check_wrap(wrap: str | None) -> None:
    """Refuse a wrapper without exactly one place for the prompt.

    Raises:
        DposcopeError: there is none, or more than one.
    """
    if wrap is not None and wrap.count(PLACE) != 1:
        raise DposcopeError(f"the wrapper {wrap!r} holds {PLACE} {wrap.count(PLACE)} times; write it once")


def check_prefill(prefill: str | None) -> None:
    """Refuse an empty prefill, and one with more than one place for the prompt.

    Raises:
        DposcopeError: see above.
    """
    if prefill is not None and not prefill.strip():
        raise DposcopeError("the prefill is empty; leave --prefill out")
    if prefill is not None and prefill.count(PLACE) > 1:
        raise DposcopeError(f"the prefill {prefill!r} holds {PLACE} {prefill.count(PLACE)} times; write it once")


def _with_system(asking: Asking, system: str, tokenizer: "PreTrainedTokenizerBase", name: str) -> Asking:
    """Refuse a system prompt that the template refuses, or leaves out without a word."""
    asking = replace(asking, system=system)
    try:
        taken = system.strip() in asking.render(tokenizer, _TRIED, name=name)
    except DposcopeError as error:
        raise DposcopeError(
            f"the chat template of {name} takes no system prompt ({first_line(error.__cause__ or error)}); leave "
            "--system out"
        ) from error
    if not taken:
        raise DposcopeError(f"the chat template of {name} leaves a system prompt out; leave --system out, too")
    return asking


def conversation_told(turns: Sequence[Turn]) -> str:
    """What was said, one turn after the other, to compare conversations and to count their tokens."""
    return "\n".join(turn.content for turn in turns)
