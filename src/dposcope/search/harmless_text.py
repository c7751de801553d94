"""What an edit costs on the plain model's own harmless texts: the rise of their log-perplexity.

Neutral text is an encyclopedia's. An edit may leave it alone and still change what the model writes to users' prompts,
where it matters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dposcope.evaluation.perplexity import WindowLosses
from dposcope.evaluation.sampled.continuations import continuation_losses
from dposcope.evaluation.statistics.comparisons import paired_difference
from dposcope.evaluation.statistics.intervals import Difference
from dposcope.model.generate import Continuation
from dposcope.model.language_model import LanguageModel

_BATCH = 64
"""Texts read at a time."""


@dataclass(frozen=True, eq=False)
class HarmlessText:
    """Harmless samples of the plain model, read by it once."""

    texts: tuple[Continuation, ...]
    """With their prompts; at least one."""
    base: WindowLosses
    """The plain model's, text by text."""

    @classmethod
    def read(cls, lm: LanguageModel, texts: Sequence[Continuation]) -> "HarmlessText":
        """Let the plain model read them; no intervention may be on it."""
        return cls(tuple(texts), continuation_losses(lm, texts, batch_size=_BATCH))

    def rise(self, lm: LanguageModel) -> Difference:
        """Rise of log-perplexity, nats per token, with its interval over texts. A model that overflows has an infinite
        one.

        Args:
            lm: the same model with an edit on it or folded into it.
        """
        losses = continuation_losses(lm, self.texts, batch_size=_BATCH)
        if not np.isfinite(losses.nll).all():
            return Difference(np.inf, np.inf, np.inf, len(self.texts))
        return paired_difference(losses.nll, self.base.nll, denominators=losses.tokens)
