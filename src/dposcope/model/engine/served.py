"""Texts that a server writes in the model's place, as `generate` would give them.

The model at hand gives the prompts' tokens and the texts' tokens; the server writes. Greedy texts are the model's own
up to rounding, sampled ones are drawn by the server's own random numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Literal, Protocol

from dposcope.artefacts import text_digest
from dposcope.data.short import short_repr
from dposcope.data.token_ids import continued_ids, token_ids
from dposcope.errors import DposcopeError, plural
from dposcope.foreign_text import one_line
from dposcope.model.chat.prompts import encode_prompts
from dposcope.model.engine.endpoint import Completion, CompletionsEndpoint, Refused, ServedModel
from dposcope.model.engine.parallel import in_parallel
from dposcope.model.generate import Continuation, Progress, Sampling
from dposcope.model.language_model import LanguageModel

AT_ONCE: Final = 16
"""Requests at a time."""
PROBES: Final = 8
"""Prompts that a server continues greedily before it is used."""
_PROBE_TOKENS: Final = 20
_PROBE_PROMPT: Final = 64
"""Most tokens of such a prompt."""

_FURTHER: Final = {
    **{"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "repeat_penalty": 1.0},
    "return_token_ids": True,
}
"""The model's own distribution (servers have defaults of their own, and read further ones from a checkpoint), and the
ids of what is written (vLLM)."""
_SEEDS: Final = 2**31
"""Every server takes a seed below."""


class Writer(Protocol):
    """Continues prompts: `generate`, or a server."""

    def __call__(
        self,
        lm: LanguageModel,
        prompts: Sequence[str],
        *,
        new_tokens: int = 20,
        max_prompt_tokens: int | None = 256,
        keep: Literal["start", "end"] = "end",
        sampling: Sampling | None = None,
        batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> list[Continuation]:
        """See `generate`."""
        ...


@dataclass(frozen=True)
class Form:
    """How a server takes requests."""

    ids: bool
    """Prompts as token ids; otherwise as text, which the server divides into tokens by itself."""
    further: bool
    """Whether it takes fields beyond OpenAI's, which switch off what it would alter of the model's distribution."""


_FORMS: Final = (Form(True, True), Form(True, False), Form(False, True), Form(False, False))
"""In the order in which they are tried."""


@dataclass(frozen=True, eq=False)
class Served:
    """A model at a server, ready to write."""

    endpoint: CompletionsEndpoint
    model: ServedModel
    form: Form
    probes: tuple[Continuation, ...]
    """Greedy continuations of a few prompts, by which the model is known again."""
    at_once: int = AT_ONCE
    """Requests at a time."""

    __repr__ = short_repr

    @classmethod
    def connect(
        cls, endpoint: CompletionsEndpoint, lm: LanguageModel, prompts: Sequence[str], *, at_once: int = AT_ONCE
    ) -> "Served":
        """Ask a server for its model, find out how it takes prompts, and let it continue a few, one at a time.

        Args:
            endpoint: of the server.
            lm: the model at hand, which gives the tokens.
            prompts: of which at most `PROBES` are continued, evenly spaced; not empty.
            at_once: later requests at a time.

        Raises:
            DposcopeError: the server cannot be reached, refuses every form, or reads prompts as other tokens.
        """
        model = endpoint.served()
        chosen = list(dict.fromkeys(prompts[place * len(prompts) // PROBES] for place in range(PROBES)))
        first = encode_prompts(lm, chosen[:1], max_tokens=_PROBE_PROMPT)[0]
        served = _taken(cls(endpoint, model, _FORMS[0], (), at_once=1), lm, first)
        probes = served.write(lm, chosen, new_tokens=_PROBE_TOKENS, max_prompt_tokens=_PROBE_PROMPT)
        return replace(served, probes=tuple(probes), at_once=at_once)

    @property
    def name(self) -> str:
        """Server and model, for messages."""
        return f"{self.endpoint.url}#{one_line(self.model.name, most=120)}"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What its texts depend on. Not its address: a server may be started again at another."""
        return {
            "engine": "openai",
            "model": self.model.name,
            "facts": dict(self.model.facts),
            "prompts": "token ids" if self.form.ids else "text",
            "unaltered": self.form.further,
            "probes": text_digest(*(one.text for one in self.probes)),
        }

    def write(
        self,
        lm: LanguageModel,
        prompts: Sequence[str],
        *,
        new_tokens: int = 20,
        max_prompt_tokens: int | None = 256,
        keep: Literal["start", "end"] = "end",
        sampling: Sampling | None = None,
        batch_size: int | None = None,  # noqa: ARG002 — of a `Writer`; a server makes its own batches
        progress: Progress | None = None,
    ) -> list[Continuation]:
        """`generate`, by the server: the token ids are its own where it tells them, else those of its text.

        Raises:
            DposcopeError: a prompt has no token, or the server fails.
        """
        encoded = encode_prompts(lm, prompts, max_tokens=max_prompt_tokens, keep=keep)
        spelt = [self.spelt(lm, ids) for ids in encoded]

        def ask(row: int) -> Completion:
            return self.complete(spelt[row], new_tokens=new_tokens, sampling=sampling, row=row)

        completions = in_parallel(ask, len(encoded), at_once=self.at_once, progress=progress)
        return self._continuations(lm, encoded, completions, new_tokens)

    def complete(
        self, prompt: list[int] | str, *, new_tokens: int, sampling: Sampling | None = None, row: int = 0
    ) -> Completion:
        """One prompt's continuation, as the server says it.

        Args:
            prompt: see `spelt`.
            new_tokens: most new tokens.
            sampling: how tokens are sampled; None: greedy.
            row: of the prompt, for its seed.

        Raises:
            DposcopeError: the server fails.
        """
        return self.endpoint.complete(
            prompt,
            model=self.model.name,
            new_tokens=new_tokens,
            temperature=0.0 if sampling is None else sampling.temperature,
            top_p=1.0 if sampling is None else sampling.top_p,
            seed=0 if sampling is None else (sampling.seed * 1_000_003 + sampling.first_row + row) % _SEEDS,
            further=_FURTHER if self.form.further else {},
        )

    def spelt(self, lm: LanguageModel, prompt: list[int]) -> list[int] | str:
        """A prompt's token ids as the server takes them: as text, it puts special tokens before it by itself."""
        if self.form.ids:
            return prompt
        added = token_ids(lm.tokenizer, [""], special=True)[0]
        own = prompt[len(added) :] if prompt[: len(added)] == added else prompt
        text = lm.tokenizer.decode(own, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert isinstance(text, str)
        return text

    def _continuations(
        self, lm: LanguageModel, prompts: list[list[int]], written: list[Completion], new_tokens: int
    ) -> list[Continuation]:
        tokenizer = lm.writer or lm.tokenizer
        spelt = continued_ids(tokenizer, [one.text for one in written])
        told = [one.ids for one in written]
        ids = [own if ids is None else _own(lm, ids) for ids, own in zip(told, spelt, strict=True)]
        # A text in the tokens of the tokenizer may have some more than the server wrote, but not twice as many.
        if any(len(one) > 2 * new_tokens + 8 for one in ids):
            raise DposcopeError(
                f"{self.endpoint.url} writes more than the {plural(new_tokens, 'token')} that were asked for; check "
                "that it takes max_tokens"
            )
        texts = [one.text for one in written]
        return [Continuation(*one) for one in zip(prompts, ids, texts, strict=True)]


def _own(lm: LanguageModel, ids: Sequence[int]) -> list[int]:
    """Token ids without the end-of-text token, checked against the vocabulary."""
    known = len(lm.writer or lm.tokenizer)
    if any(token >= known for token in ids):
        raise DposcopeError(
            f"the server writes tokens beyond the vocabulary of {lm.name}; name the server of this model"
        )
    ends = lm.end_ids
    return [*ids[:-1]] if ids and ids[-1] in ends else [*ids]


def _taken(served: Served, lm: LanguageModel, prompt: list[int]) -> Served:
    """The same with the first form that the server takes, and in which it reads as many tokens as there are."""
    first: DposcopeError | None = None
    for form in _FORMS:
        tried = replace(served, form=form)
        try:
            read = tried.complete(tried.spelt(lm, prompt), new_tokens=1).prompt_tokens
        except Refused as refusal:
            first = first or refusal
            continue
        if read is None or read == len(prompt):
            return tried
        first = first or DposcopeError(
            f"{served.endpoint.url} reads {plural(read, 'token')} where {lm.name} has {len(prompt):,}: it puts a chat "
            "template or tokens of its own around a prompt, or serves another model; check what it serves"
        )
    assert first is not None
    raise first
