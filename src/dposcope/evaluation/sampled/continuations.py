"""What a model thinks of texts that were written to prompts: nats per token, and how much the prompt explains.

Texts are read as the token ids that were written, not tokenised again, so a model that reads its own text reads exactly
what it wrote.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from typing_extensions import TypedDict

from dposcope.data.given.numbers import whole
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.evaluation.perplexity import WindowLosses
from dposcope.evaluation.statistics.comparisons import bootstrap_ratio
from dposcope.evaluation.statistics.intervals import Estimate
from dposcope.memory import halving_batches
from dposcope.model.batches import Batch, by_row
from dposcope.model.checks.given import check_lm
from dposcope.model.frames import prompted
from dposcope.model.generate import Continuation, Progress, continuations_given
from dposcope.model.head.token_losses import token_losses
from dposcope.model.language_model import LanguageModel
from dposcope.processes.shared import check_progress


@halving_batches
@torch.inference_mode()
def continuation_losses(
    lm: LanguageModel,
    written: Sequence[Continuation],
    *,
    after: Sequence[Sequence[int]] | None = None,
    batch_size: int | None = None,
    chunk: int = 128,
    progress: Progress | None = None,
) -> WindowLosses:
    """−log p(continuation | prompt) of each text, summed over its tokens.

    Args:
        lm: the model that reads; hooks of an intervention around this call apply, where they act when it writes.
        written: texts with their prompts; one without a token counts 0 nats over 0 tokens.
        after: prompts to read them after instead of their own, as token ids.
        batch_size: texts at a time.
        chunk: see `token_losses`.
        progress: called with texts read.

    Raises:
        DposcopeError: as many prompts as texts are not given, a prompt is empty, or a text exceeds the model's context.
    """
    check_lm(lm)
    written = continuations_given(written)
    if whole("chunk", chunk) < 1:
        raise DposcopeError(f"chunk {chunk} is below 1; give a positive number")
    prompts = [one.prompt_ids for one in written]
    if after is not None:
        prompts = [[whole("after: token", token) for token in ids] for ids in after]
    if len(prompts) != len(written):
        raise DposcopeError(f"there are {len(prompts)} prompts for {len(written)} texts; give one each")
    if not all(prompts):
        raise DposcopeError("a prompt has no token, so that nothing predicts the first one of its text; leave it out")
    longest = max((len(head) + len(one.ids) for head, one in zip(prompts, written, strict=True)), default=0)
    if longest > lm.context_length:
        raise DposcopeError(
            f"a prompt and its text have {longest:,} tokens, and the model's context is {lm.context_length:,}; "
            "cut the prompts"
        )
    tokens = np.array([len(one.ids) for one in written], dtype=np.int64)
    rows = [[*head, *one.ids] for head, one in zip(prompts, written, strict=True)]

    def read(batch: Batch) -> list[float]:
        lengths = torch.tensor([len(prompts[row]) for row in batch.rows], device=batch.ids.device)
        with prompted(lengths, rows=batch.rows):
            hidden = lm.model.base_model(
                input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
            ).last_hidden_state
        # All texts of the batch together: the unembedding is read once for a chunk of positions, not for every text.
        spans = [(place, len(prompts[row]), len(rows[row])) for place, row in enumerate(batch.rows)]
        states = torch.cat([hidden[place, start - 1 : stop - 1] for place, start, stop in spans])
        targets = torch.cat([batch.ids[place, start:stop] for place, start, stop in spans])
        losses = token_losses(lm, states, targets, chunk).split([stop - start for _, start, stop in spans])
        return [float(own.sum()) for own in losses]

    nll = by_row(lm, rows, read, batch_size=batch_size, side="right", progress=progress)
    return WindowLosses(np.array(nll, dtype=np.float64), tokens)


class StoredRelevance(TypedDict):
    """A `Relevance` in a file."""

    nats: list[float]
    tokens: list[int]


@dataclass(frozen=True, eq=False)
class Relevance:
    """How much of each text its own prompt explains."""

    nats: np.ndarray
    """−log p(text | another prompt) + log p(text | own prompt), summed over a text's tokens, `[texts]`."""
    tokens: np.ndarray
    """`[texts]`."""

    __repr__ = short_repr

    @property
    def measured(self) -> bool:
        """Whether any text has a token."""
        return bool((self.tokens > 0).any())

    @property
    def estimate(self) -> Estimate:
        """Nats per token, the interval over texts."""
        held = self.tokens > 0
        return bootstrap_ratio(self.nats[held], self.tokens[held])

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return {"nats": self.nats.tolist(), "tokens": self.tokens.tolist()}

    @classmethod
    def from_json(cls, stored: StoredRelevance) -> "Relevance":
        """Read what `to_json` wrote."""
        return cls(np.array(stored["nats"], dtype=np.float64), np.array(stored["tokens"], dtype=np.int64))


@halving_batches
def relevance(
    lm: LanguageModel,
    written: Sequence[Continuation],
    *,
    own: WindowLosses | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Relevance:
    """Read each text after its own prompt and after that of another text, with the plain model.

    The other prompt is that of the text half the list away, or of the first one after it whose prompt is another.
    Where all prompts are the same, nothing is explained by them.

    Args:
        lm: the plain model.
        written: texts of any model, with their prompts; at least two.
        own: what the plain model makes of them after their own prompts, where that was read before.
        batch_size: texts at a time.
        progress: called with texts read, of one reading of each or of two.

    Raises:
        DposcopeError: fewer than two texts, or what `continuation_losses` refuses.
    """
    check_lm(lm)
    check_progress(progress)
    written = continuations_given(written)
    _check_own(own)
    if len(written) < 2:
        raise DposcopeError("relevance compares a text's prompt with another one's; give at least two texts")
    others = [_other_prompt(written, row) for row in range(len(written))]
    readings = 2 if own is None else 1

    def first(done: int, total: int) -> None:
        if progress is not None:
            progress(done, readings * total)

    def last(done: int, total: int) -> None:
        if progress is not None:
            progress((readings - 1) * total + done, readings * total)

    if own is None:
        own = continuation_losses(lm, written, batch_size=batch_size, progress=first)
    other = continuation_losses(lm, written, after=others, batch_size=batch_size, progress=last)
    return Relevance(other.nll - own.nll, own.tokens)


def _check_own(given: object) -> None:
    if given is not None and not isinstance(given, WindowLosses):
        raise DposcopeError(f"own is a {type(given).__name__}; give what continuation_losses returned, or leave it out")


def _other_prompt(written: Sequence[Continuation], row: int) -> list[int]:
    """The prompt that a text is read after instead of its own; its own where there is no other."""
    own, half = written[row].prompt_ids, len(written) // 2
    places = ((row + half + step) % len(written) for step in range(len(written)))
    return next((written[place].prompt_ids for place in places if written[place].prompt_ids != own), own)
