"""The plain and the edited model answer the same prompts."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from dposcope.errors import DposcopeError, plural
from dposcope.files import expanded
from dposcope.interventions.edit import Edit
from dposcope.model.chat.asking import ChatOptions, Prompt
from dposcope.model.chat.prompts import asked_by, encode_prompts
from dposcope.model.generate import Continuation, Progress, Sampling, continue_ids
from dposcope.model.hooks import Applied
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load_native
from dposcope.protocols import DeviceMap, Quantise
from dposcope.shipping.origin import checkpoint_origin
from dposcope.talk.origin import origin_notes
from dposcope.talk.subject import Subject

PLAIN = 0.0
"""The strength at which nothing is done to the model."""

Heard = Callable[[str], None]
"""Called with the text of an answer so far, each time that a token is written. What it raises ends the answer."""


@dataclass(frozen=True)
class Answer:
    """What the model wrote at one strength of the edit."""

    strength: float
    """0 is the plain model, 1 the edit as it is."""
    text: str
    """Without special tokens."""
    ids: list[int]
    """The tokens of `text`."""
    prompt_ids: list[int]
    """What the model read before."""


@dataclass(frozen=True)
class Answered:
    """One prompt and what was written to it."""

    prompt: str
    answers: tuple[Answer, ...]
    """One a strength, in the order that was asked for."""


@dataclass(frozen=True, eq=False)
class Session:
    """A model, an edit, and how they are asked and write."""

    lm: LanguageModel
    edit: Edit | None
    new_tokens: int = 40
    """Most tokens of an answer."""
    sampling: Sampling | None = None
    """None: the likeliest token. Otherwise all strengths draw with the same numbers."""
    notes: tuple[str, ...] = ()
    """On whether the edit was made for this model, and for the way in which it is asked; see `origin_notes`."""

    def __post_init__(self) -> None:
        """Refuse an edit that was made for another architecture, or does not fit, before anything is written."""
        if self.edit is not None:
            checkpoint_origin(self.edit, self.lm.model.config.model_type, ())
            self.edit.changes(self.lm)

    @property
    def edit_told(self) -> str | None:
        """A summary of the edit in one line; None where there is none."""
        return None if self.edit is None else self.edit.told(self.lm)

    @classmethod
    def open(
        cls,
        subject: Subject,
        *,
        dtype: str = "auto",
        device: str = "auto",
        device_map: DeviceMap | None = None,
        quantise: Quantise | None = None,
        chat: ChatOptions = ChatOptions(),  # noqa: B008 — frozen
        new_tokens: int = 40,
        sampling: Sampling | None = None,
    ) -> "Session":
        """Load the model.

        Args:
            subject: model and edit.
            dtype: see `load_native`.
            device: see `load_native`.
            device_map: see `load`.
            quantise: see `load`.
            chat: how the model is asked.
            new_tokens: see the field.
            sampling: see the field.

        Raises:
            DposcopeError: the model cannot be loaded, the edit does not fit it, or it cannot be asked so.
        """
        try:
            lm = load_native(subject.model, dtype=dtype, device=device, device_map=device_map, quantise=quantise)
        except DposcopeError as error:
            if subject.elsewhere is None or expanded(subject.model).exists():
                raise
            raise DposcopeError(f"{error}; {subject.elsewhere}") from error
        asked = asked_by(lm, chat)
        return cls(asked, subject.edit, new_tokens, sampling, origin_notes(subject, asked))

    @property
    def manner(self) -> str:
        """How the model is asked, in a few words."""
        return "answers through its chat template" if self.lm.asking is not None else "continues the text"

    def at(self, strength: float) -> AbstractContextManager[Applied]:
        """The model at a strength, inside a context; at 0 it has no hook and is the plain one, to the bit.

        Raises:
            DposcopeError: there is no edit, and the strength is not 0.
        """
        if strength == PLAIN:
            return nullcontext(Applied())
        if self.edit is None:
            raise DposcopeError(f"a strength of {strength:g} needs an edit; give one with --edit, or strength 0")
        return self.edit.strength(strength).on(self.lm)

    def answer(
        self,
        prompt: Prompt,
        strength: float,
        *,
        new_tokens: int | None = None,
        heard: Heard | None = None,
    ) -> Answer:
        """One answer, which can be followed as it is written.

        Args:
            prompt: a text, or a conversation whose last turn is the user's.
            strength: of the edit.
            new_tokens: most tokens; None: as the session has it.
            heard: told the text so far after each token.

        Raises:
            DposcopeError: the prompt is too long for the model, or has no token.
        """
        ids = encode_prompts(self.lm, [prompt])[0]
        new_tokens = self.new_tokens if new_tokens is None else new_tokens
        self._check_room([ids], new_tokens)
        written: list[int] = []

        def watch(_row: int, token: int) -> None:
            written.append(token)
            if heard is not None:
                heard(self.lm.decode([written])[0])

        with self.at(strength):
            # One text cannot be begun again with fewer at a time, so that nothing is told twice.
            done = continue_ids(
                self.lm, [ids], new_tokens=new_tokens, sampling=self.sampling, batch_size=1, watch=watch
            )
        return _answer(strength, done[0])

    def answers(
        self,
        prompts: Sequence[str],
        strengths: Sequence[float],
        *,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> list[Answered]:
        """The answers to several prompts at several strengths, in batches.

        Args:
            prompts: texts.
            strengths: of the edit.
            batch_size: prompts at a time.
            progress: called with (done, total) of the answers.

        Raises:
            DposcopeError: see `answer`.
        """
        ids = encode_prompts(self.lm, prompts)
        self._check_room(ids, self.new_tokens)
        total = len(ids) * len(strengths)
        rows: list[list[Answer]] = [[] for _ in prompts]
        for number, strength in enumerate(strengths):

            def told(done: int, _of: int, before: int = number * len(ids)) -> None:
                if progress is not None:
                    progress(before + done, total)

            with self.at(strength):
                done = continue_ids(
                    self.lm,
                    ids,
                    new_tokens=self.new_tokens,
                    sampling=self.sampling,
                    batch_size=batch_size,
                    progress=told,
                )
            for row, one in zip(rows, done, strict=True):
                row.append(_answer(strength, one))
        return [Answered(prompt, tuple(row)) for prompt, row in zip(prompts, rows, strict=True)]

    def _check_room(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
        longest = max(map(len, prompts), default=0)
        if longest + new_tokens > self.lm.context_length:
            raise DposcopeError(
                f"a prompt of {plural(longest, 'token')} and an answer of up to {new_tokens:,} do not fit into the "
                f"{self.lm.context_length:,} that {self.lm.name} can read; shorten the prompt, or ask for fewer "
                "--new-tokens"
            )


def _answer(strength: float, done: Continuation) -> Answer:
    return Answer(strength, done.text, done.ids, done.prompt_ids)
