"""Prompts behind a tokenizer's chat template, which is how chat models are asked.

A template is a small program in a stranger's file. It writes the conversation as text, with all special tokens, so the
tokenizer adds none: a prompt then begins as the template says, with one begin-of-text token or without.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from transformers import PreTrainedTokenizerBase

from dposcope.data.token_ids import check_whole, token_ids
from dposcope.errors import DposcopeError, first_line, is_memory
from dposcope.model.batches import encode
from dposcope.model.language_model import LanguageModel
from dposcope.protocols import check_choice

ChatMode = Literal["auto", "on", "off"]
"""auto: on where the tokenizer has a template."""

_TRIED: Final = "Hello."
"""What a template is tried with before it is used."""


@dataclass(frozen=True)
class Turn:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, eq=False)
class Chat:
    """How prompts are put to a model: as messages in its chat template, or as text that it continues."""

    lm: LanguageModel
    on: bool
    """Whether prompts go through the template."""
    system: str | None = None
    """The system prompt; None: the template's own, or none."""

    @classmethod
    def of(cls, lm: LanguageModel, mode: ChatMode = "auto", *, system: str | None = None) -> "Chat":
        """Decide it for a model, and try its template.

        Args:
            lm: model and tokenizer.
            mode: auto: on where the tokenizer has a template.
            system: the system prompt; None: the template's own, or none.

        Raises:
            DposcopeError: there is no template, or it fails; or a system prompt is given that has no place.
        """
        check_choice("chat", mode, ("auto", "on", "off"))
        has = bool(lm.tokenizer.chat_template)
        if mode == "on" and not has:
            raise DposcopeError(f"the tokenizer of {lm.name} has no chat template; leave --chat on out")
        chat = cls(lm, has and mode != "off", system)
        if not chat.on:
            if system is not None:
                why = "has no chat template" if not has else "is asked without its chat template"
                raise DposcopeError(f"{lm.name} {why}, so a system prompt has no place; leave --system out")
            return chat
        cls(lm, on=True).render([Turn("user", _TRIED)])
        if system is not None:
            chat._try_system(system)
        return chat

    def render(self, turns: Sequence[Turn]) -> str:
        """The text that the template makes of a conversation, up to where the model's answer begins.

        Args:
            turns: what was said so far, without the system prompt; the last one is the user's.

        Raises:
            DposcopeError: the template fails.
        """
        said = [Turn("system", self.system), *turns] if self.system is not None else turns
        messages = [{"role": turn.role, "content": turn.content} for turn in said]
        try:
            text = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a stranger's program
            if is_memory(error):
                raise
            raise DposcopeError(
                f"the chat template of {self.lm.name} fails ({first_line(error)}); use --chat off"
            ) from error
        assert isinstance(text, str)
        return text

    def encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts, each a conversation of its own; never cut.

        Raises:
            DposcopeError: a prompt is too long to be read, or has no token; or the template fails.
        """
        if not self.on:
            return encode(self.lm, prompts)
        return self._ids([[Turn("user", prompt)] for prompt in prompts])

    def encode_turns(self, turns: Sequence[Turn]) -> list[int]:
        """Token ids of a conversation; without a template, of its last message alone.

        Args:
            turns: see `render`; not empty.

        Raises:
            DposcopeError: see `encode`.
        """
        return self._ids([turns])[0] if self.on else encode(self.lm, [turns[-1].content])[0]

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return self.lm.tokenizer

    def _ids(self, conversations: Sequence[Sequence[Turn]]) -> list[list[int]]:
        texts = [self.render(turns) for turns in conversations]
        for row, text in enumerate(texts):
            check_whole(len(text), f"prompt {row + 1}")
        return token_ids(self._tokenizer, texts, special=False)

    def _try_system(self, system: str) -> None:
        """Refuse a system prompt that the template refuses, or leaves out without a word."""
        try:
            taken = system.strip() in self.render([Turn("user", _TRIED)])
        except DposcopeError as error:
            raise DposcopeError(
                f"the chat template of {self.lm.name} takes no system prompt "
                f"({first_line(error.__cause__ or error)}); leave --system out"
            ) from error
        if not taken:
            raise DposcopeError(
                f"the chat template of {self.lm.name} leaves a system prompt out; leave --system out, too"
            )
