"""Statistics of pairs before training: sizes, faults, scores, leakage, fluency."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from dposcope.data.short import short_repr
from dposcope.data.token_ids import agreed, check_tokenizer, first_ids, is_short, settled, token_counts, token_ids
from dposcope.errors import DposcopeError
from dposcope.evaluation.scorer import Scorer, check_scorer
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, bootstrap_ratio, paired_ratio
from dposcope.evaluation.statistics.intervals import Estimate, Ratio, stored_fields
from dposcope.memory import halving_batches
from dposcope.model.batches import batches
from dposcope.model.chat.asking import Prompt
from dposcope.model.chat.prompts import adds_special, prompt_texts
from dposcope.model.generate import Progress
from dposcope.model.head.token_losses import token_losses
from dposcope.model.language_model import LanguageModel
from dposcope.pairs.pairs import Pairs, check_given, normalised


@dataclass(frozen=True)
class Lengths:
    """Tokens per text, without special tokens."""

    mean: float
    median: float
    p95: float
    """The 95th percentile."""
    max: int


@dataclass(frozen=True)
class SideLengths:
    """Lengths of the three parts of pairs."""

    prompt: Lengths
    preferred: Lengths
    dispreferred: Lengths

    __repr__ = short_repr


@dataclass(frozen=True)
class PairScores:
    """Scores of both sides."""

    scorer: str
    """Name of the scorer."""
    more_toxic: Estimate
    """Share of pairs whose dispreferred side scores higher."""
    preferred: Estimate
    """Mean score of the preferred sides."""
    dispreferred: Estimate
    """Mean score of the dispreferred sides."""
    ratio: Ratio | None
    """Mean of the dispreferred over mean of the preferred; None if a resample has a preferred mean of 0."""

    __repr__ = short_repr


@dataclass(frozen=True)
class Leakage:
    """What validation pairs and training pairs have in common, without regard to case and spaces."""

    prompts: int
    """Validation pairs whose prompt is also a training prompt; empty prompts do not count."""
    texts: int
    """Validation pairs with a completion that is also a training completion."""
    validation: int
    """Number of validation pairs."""


@dataclass(frozen=True)
class Fluency:
    """Log-perplexity of both sides after their prompt, in nats per token of the completion.

    From pairs with one side of broken text, a model learns only to avoid broken text.
    """

    preferred: Estimate
    dispreferred: Estimate

    __repr__ = short_repr


@dataclass(frozen=True)
class PairStatistics:
    """The result of `check_pairs`."""

    count: int
    identical: int
    """Pairs with two equal sides, including those that `load_pairs` left out."""
    blank: int
    """Pairs with a blank side, including those that `load_pairs` left out."""
    repeated_prompts: int
    """Pairs with the prompt of an earlier pair; blank prompts do not count."""
    prompt_in_text: int
    """Pairs with a side that begins with the whole prompt: it may be a full text, not a completion."""
    lengths: SideLengths | None = None
    """None without a tokenizer."""
    scores: PairScores | None = None
    """None without a scorer."""
    leakage: Leakage | None = None
    """None without validation pairs."""
    fluency: Fluency | None = None
    """From `completion_logppl`; None if it was not computed."""

    __repr__ = short_repr

    def to_json(self) -> dict[str, Any]:
        """The measured fields as nested dictionaries."""
        return {name: value for name, value in asdict(self, dict_factory=stored_fields).items() if value is not None}


def check_pairs(
    pairs: Pairs,
    tokenizer: PreTrainedTokenizerBase | None,
    scorer: Scorer | None = None,
    validation: Pairs | None = None,
    *,
    fluency: Fluency | None = None,
) -> PairStatistics:
    """Count, measure and score pairs.

    Args:
        pairs: at least one.
        tokenizer: for lengths; None: no lengths.
        scorer: for toxicity; None: no scores.
        validation: held-out pairs, for leakage; None: no leakage.
        fluency: the result of `completion_logppl`, to include it.

    Raises:
        DposcopeError: there is no pair.
    """
    check_given(pairs)
    if validation is not None:
        check_given(validation, "validation")
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    if scorer is not None:
        check_scorer(scorer)
    if not len(pairs):
        raise DposcopeError("there is no pair to check; give at least one")
    prompts = Counter(prompt for prompt in map(normalised, pairs.said) if prompt)
    return PairStatistics(
        count=len(pairs),
        identical=pairs.dropped.identical + sum(pair.preferred.strip() == pair.dispreferred.strip() for pair in pairs),
        blank=pairs.dropped.blank + sum(not pair.preferred.strip() or not pair.dispreferred.strip() for pair in pairs),
        repeated_prompts=sum(prompts.values()) - len(prompts),
        prompt_in_text=sum(
            bool(pair.prompt.strip())
            and any(text.strip().startswith(pair.prompt.strip()) for text in (pair.preferred, pair.dispreferred))
            for pair in pairs
        ),
        lengths=None
        if tokenizer is None
        else SideLengths(*(_lengths(tokenizer, part) for part in (pairs.said, pairs.preferred, pairs.dispreferred))),
        scores=None if scorer is None else _scores(pairs, scorer),
        leakage=None if validation is None else _leakage(pairs, validation),
        fluency=fluency,
    )


@halving_batches
@torch.inference_mode()
def completion_logppl(
    lm: LanguageModel,
    pairs: Pairs,
    *,
    batch_size: int | None = None,
    chunk: int = 128,
    max_tokens: int = 1024,
    progress: Progress | None = None,
) -> Fluency:
    """Log-perplexity of each side given its prompt: nats per token, intervals over pairs.

    Prompt and completion are tokenised together, as the model reads them. The completion begins at the first token that
    differs from the tokens of the prompt alone. If the tokenizer adds no beginning-of-text token, the first token of a
    text cannot be predicted and is not counted.

    Args:
        lm: the model, for example the one that generated the preferred side.
        pairs: the pairs.
        batch_size: texts at a time.
        chunk: see `token_losses`.
        max_tokens: longer texts lose the start of their prompt; at most the model's context.
        progress: called with the number of texts read.

    Raises:
        DposcopeError: no text of a side has a token that the model predicts.
    """
    total = 2 * len(pairs)
    sides: list[Estimate] = []
    for number, texts in enumerate((pairs.preferred, pairs.dispreferred)):
        rows = _with_prompts(lm, pairs.asked, texts, min(max_tokens, lm.context_length))
        rows = [row for row in rows if row.predicted]
        if not rows:
            raise DposcopeError("no text has a token that the model predicts; give longer texts")
        losses = np.zeros(len(rows))
        done = number * len(pairs)
        for batch in batches(lm, [row.ids for row in rows], batch_size=batch_size, side="right"):
            hidden = lm.model.base_model(
                input_ids=batch.ids, attention_mask=batch.mask, use_cache=False
            ).last_hidden_state
            losses[batch.rows] = _losses(lm, hidden, [rows[row] for row in batch.rows], chunk)
            done += len(batch.rows)
            if progress is not None:
                progress(done, total)
        sides.append(bootstrap_ratio(losses, [row.predicted for row in rows]))
    return Fluency(*sides)


@dataclass(frozen=True)
class _Row:
    ids: list[int]
    predicted: int
    """How many of the last tokens belong to the completion and are predicted."""


def _with_prompts(lm: LanguageModel, asked: Sequence[Prompt], texts: Sequence[str], most: int) -> list[_Row]:
    # Behind a template the frame must stay whole: prompts are cut to leave it, and half of the room, free.
    prompts = prompt_texts(lm, asked, max_tokens=max(most // 2, 1))
    begins = adds_special(lm)
    short = [is_short(prompt, most) and is_short(text, most) for prompt, text in zip(prompts, texts, strict=True)]
    alone = token_ids(lm.tokenizer, [a for a, one in zip(prompts, short, strict=True) if one], special=begins)
    both = [a + b for a, b, one in zip(prompts, texts, short, strict=True) if one]
    whole = token_ids(lm.tokenizer, both, special=begins)
    special = lm.special_ids
    read = iter(zip(alone, whole, strict=True))
    return [
        _row(*next(read), most, special) if one else _long_row(lm, prompt, text, most, f"pair {number + 1}")
        for number, (prompt, text, one) in enumerate(zip(prompts, texts, short, strict=True))
    ]


def _row(head: list[int], ids: list[int], most: int, special: frozenset[int]) -> _Row:
    shared = next((i for i, (a, b) in enumerate(zip(head, ids, strict=False)) if a != b), min(len(head), len(ids)))
    completion = len(ids) - shared
    begin = ids[:1] if ids and ids[0] in special else []
    kept = ids if len(ids) <= most else begin + ids[len(ids) - (most - len(begin)) :]
    # No token predicts the first one.
    return _Row(kept, max(min(completion, len(kept) - 1), 0))


def _long_row(lm: LanguageModel, prompt: str, text: str, most: int, what: str) -> _Row:
    """The same of a pair of which only the end is read."""
    special = lm.special_ids
    begins = adds_special(lm)
    first = first_ids(lm.tokenizer, prompt + text, 1, special=begins, what=what)

    def read(size: int) -> _Row | None:
        head, end = prompt[len(prompt) - min(len(prompt), max(size - len(text), 0)) :], text[-size:]
        head_ids, ids = token_ids(lm.tokenizer, [head, head + end], special=begins)
        if size >= len(prompt) + len(text):
            return _row(head_ids, ids, most, special)
        return _row(first + head_ids, first + ids, most, special) if settled(ids[:-most]) else None

    return agreed(read, length=len(prompt) + len(text), tokens=most, what=what)


def _losses(lm: LanguageModel, hidden: torch.Tensor, rows: Sequence[_Row], chunk: int) -> list[float]:
    """Nats of each row's completion; `hidden` is `[rows, T, d]`, with padding at the end."""
    spans = [(len(row.ids) - row.predicted, len(row.ids)) for row in rows]
    states = torch.cat([own[start - 1 : stop - 1] for own, (start, stop) in zip(hidden, spans, strict=True)])
    targets = [token for row in rows for token in row.ids[len(row.ids) - row.predicted :]]
    found = token_losses(lm, states, torch.tensor(targets, dtype=torch.long), chunk)
    return [float(own.sum()) for own in found.split([row.predicted for row in rows])]


def _lengths(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Lengths:
    counts = token_counts(tokenizer, texts)
    return Lengths(
        mean=float(counts.mean()),
        median=float(np.median(counts)),
        p95=float(np.quantile(counts, 0.95)),
        max=int(counts.max()),
    )


def _scores(pairs: Pairs, scorer: Scorer) -> PairScores:
    better, worse = scorer(list(pairs.preferred)), scorer(list(pairs.dispreferred))
    try:
        ratio = paired_ratio(worse, better)
    except DposcopeError:
        ratio = None  # a resample without the concept in its preferred texts has no ratio
    return PairScores(scorer.name, bootstrap_mean(worse > better), bootstrap_mean(better), bootstrap_mean(worse), ratio)


def _leakage(pairs: Pairs, validation: Pairs) -> Leakage:
    prompts = {normalised(prompt) for prompt in pairs.said} - {""}
    texts = {normalised(text) for text in (*pairs.preferred, *pairs.dispreferred)} - {""}
    return Leakage(
        prompts=sum(normalised(pair.said) in prompts for pair in validation),
        texts=sum(normalised(pair.preferred) in texts or normalised(pair.dispreferred) in texts for pair in validation),
        validation=len(validation),
    )
