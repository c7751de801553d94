"""Toxic neurons: the neurons of highest cosine with the direction, and the tokens they promote (paper 4, 5.2, F)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl
import torch
from torch import Tensor

from dposcope.data.given.numbers import whole
from dposcope.data.pandas_frames import ToPandas
from dposcope.data.short import short_repr
from dposcope.directions.direction import Direction, vector_of
from dposcope.directions.judge import TokenJudge, check_judge, judge_each
from dposcope.directions.lens import lens
from dposcope.errors import DposcopeError
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.aligned import AlignedVectors, most_aligned
from dposcope.neurons.sets import NeuronSet
from dposcope.protocols import check_choice


@dataclass(frozen=True)
class PromotedTokens:
    """The tokens that a vector promotes, strongest first, with a judge's verdict on each. Tokens are untrusted text."""

    tokens: tuple[str, ...]
    """`[k]`."""
    toxic: tuple[bool, ...]
    """`[k]`."""

    __repr__ = short_repr

    @property
    def hold_toxic(self) -> bool:
        """Whether at least one token is toxic, the paper's criterion for a toxic value vector."""
        return any(self.toxic)


def promoted_tokens(
    lm: LanguageModel, vectors: Tensor, judge: TokenJudge, *, k: int = 10
) -> tuple[PromotedTokens, ...]:
    """The lens of each vector, judged; the judge is called once, with each different token once.

    Args:
        lm: the model.
        vectors: `[n, d]`, or one vector `[d]`.
        judge: says which tokens are toxic (paper: GPT-4o).
        k: tokens per vector (paper: 10).

    Raises:
        DposcopeError: vectors do not fit, k is out of range, or the judge gives another number of answers.
    """
    lists = [tuple(one.top) for one in lens(lm, vectors, k=k)]
    verdicts = judge_each(judge, [token for tokens in lists for token in tokens])
    return tuple(PromotedTokens(tokens, tuple(verdicts[token] for token in tokens)) for tokens in lists)


def promoted_table(promoted: Mapping[str, PromotedTokens]) -> pl.DataFrame:
    """Table 1 or 16: one row per named vector: vector, tokens (list), toxic (list), toxic_tokens (how many)."""
    return pl.DataFrame({"vector": pl.Series(list(promoted), dtype=pl.String)}).with_columns(
        _token_columns(tuple(promoted.values()))
    )


def _token_columns(promoted: tuple[PromotedTokens, ...]) -> list[pl.Series]:
    return [
        pl.Series("tokens", [list(one.tokens) for one in promoted], dtype=pl.List(pl.String)),
        pl.Series("toxic", [list(one.toxic) for one in promoted], dtype=pl.List(pl.Boolean)),
        pl.Series("toxic_tokens", [sum(one.toxic) for one in promoted], dtype=pl.Int64),
    ]


Side = Literal["toxic", "anti-toxic"]
"""Anti-toxic neurons are the toxic ones of −W, and their vectors are read as −v."""


@dataclass(frozen=True, eq=False)
class ToxicNeurons(ToPandas):
    """The neurons of highest cosine, ranked, with the tokens that they promote (Tables 3, 6, 14 and 15)."""

    aligned: AlignedVectors
    """Places, cosines and value vectors; for the anti-toxic side cosines are those with −W."""
    promoted: tuple[PromotedTokens, ...]
    """By the lens of v_i, for the anti-toxic side of −v_i; `[n]`, in the order of the ranking."""
    side: Side
    judge: str
    """Name of the judge."""

    __repr__ = short_repr

    def __len__(self) -> int:
        """N."""
        return len(self.promoted)

    @property
    def holds_toxic(self) -> Tensor:
        """Which of them have a toxic token among their top k, `[n]`, bool."""
        return torch.tensor([one.hold_toxic for one in self.promoted], dtype=torch.bool)

    def top(self, n: int | None = None) -> NeuronSet:
        """The n of highest cosine; by default all.

        Raises:
            DposcopeError: n is not among 1 … N.
        """
        return self.aligned.chosen(self._first(n))

    def with_toxic_tokens(self, n: int | None = None) -> NeuronSet:
        """Those of the top n that have a toxic token among their top k: the paper's second variant (Table 3)."""
        return self.aligned.chosen(self._first(n) & self.holds_toxic)

    def to_polars(self) -> pl.DataFrame:
        """One row per neuron: rank (from 1), block, index, cosine, tokens, toxic (lists), toxic_tokens (how many)."""
        return pl.DataFrame(
            {
                "rank": torch.arange(1, len(self) + 1).numpy(),
                "block": self.aligned.block.numpy(),
                "index": self.aligned.index.numpy(),
                "cosine": self.aligned.cosine.numpy(),
            }
        ).with_columns(_token_columns(self.promoted))

    def _first(self, n: int | None) -> Tensor:
        n = len(self) if n is None else n
        if not 1 <= whole("n", n) <= len(self):
            raise DposcopeError(f"cannot take the top {n:,} of {len(self):,} ranked neurons; rank more of them first")
        return torch.arange(len(self)) < n


def toxic_neurons(
    lm: LanguageModel,
    direction: Direction | Tensor,
    judge: TokenJudge,
    *,
    n: int = 256,
    k: int = 10,
    side: Side = "toxic",
) -> ToxicNeurons:
    """The n neurons of highest cosine with W, or with −W, and the tokens they promote (paper 4, 5.2).

    One ranking serves every smaller N: `neurons.top(128)`.

    Args:
        lm: the model before tuning.
        direction: W, or a vector `[d]`.
        judge: says which tokens are toxic (paper: GPT-4o).
        n: how many (paper: 256).
        k: lens tokens of each (paper: 10).
        side: "toxic", or "anti-toxic": the highest cosines with −W, their vectors read as −v (Tables 6, 15).

    Raises:
        DposcopeError: W does not fit, n or k is out of range, or the side unknown.
    """
    check_judge(judge)
    check_choice("side", side, ("toxic", "anti-toxic"))
    sign = 1.0 if side == "toxic" else -1.0
    aligned = most_aligned(lm, sign * vector_of(direction), n)
    return ToxicNeurons(aligned, promoted_tokens(lm, sign * aligned.vectors, judge, k=k), side, judge.name)
