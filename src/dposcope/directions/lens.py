"""The logit lens: the tokens that a vector promotes when it is read as a residual stream (nostalgebraist 2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dposcope.data.given.numbers import whole
from dposcope.data.short import short_repr
from dposcope.data.token_ids import token_texts
from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm, check_tensor
from dposcope.model.head.logits import top_logits
from dposcope.model.language_model import LanguageModel


@dataclass(frozen=True)
class Lens:
    """Tokens of one vector, highest logit first."""

    top: list[str]
    """Tokens of x."""
    bottom: list[str]
    """Tokens of −x. With an RMSNorm, or a LayerNorm without bias, they have the lowest logits of x."""
    top_logits: list[float]
    bottom_logits: list[float]

    __repr__ = short_repr


@torch.inference_mode()
def lens(lm: LanguageModel, vectors: Direction | Tensor, *, k: int = 10) -> list[Lens]:
    """`top_k(unembed(final_norm(x)))` of each vector and of its negative.

    Args:
        lm: the model.
        vectors: `[n, d]`, one vector `[d]`, or a direction.
        k: tokens per side.

    Raises:
        DposcopeError: the width is not the model's, k is out of range, or a vector holds NaN or infinity, also in the
            model's precision.
    """
    check_lm(lm)
    given = vectors.vector if isinstance(vectors, Direction) else vectors
    check_tensor("vectors", given)
    if given.ndim == 0:
        raise DposcopeError("a vector to read is one number; give a vector [d], or several [n, d]")
    rows = given.reshape(-1, given.shape[-1])
    if rows.shape[-1] != lm.d_model:
        raise DposcopeError(
            f"vectors of width {rows.shape[-1]} do not fit a model of width {lm.d_model}; give vectors of this model"
        )
    k = check_count(lm, k)
    result: list[Lens] = []
    # 64 vectors at a time, as the logits are [64, vocabulary].
    for part in rows.split(64):
        x = part.to(lm.device_of_norm, lm.dtype)
        if not bool(x.isfinite().all()):
            raise DposcopeError(
                f"a vector holds NaN or infinity in {str(lm.dtype).removeprefix('torch.')}, and promotes no token; "
                "leave it out, or make it shorter"
            )
        upper = top_logits(lm.model, lm.normed(x), k)
        lower = top_logits(lm.model, lm.normed(-x), k)
        for row in range(len(part)):
            result.append(
                Lens(
                    _decode(lm, upper.tokens[row]),
                    _decode(lm, lower.tokens[row]),
                    upper.values[row].tolist(),
                    lower.values[row].tolist(),
                )
            )
    return result


def check_count(lm: LanguageModel, k: int) -> int:
    """A number of tokens per side.

    Raises:
        DposcopeError: it is below 1, or above the vocabulary.
    """
    vocabulary = int(lm.model.config.get_text_config().vocab_size)
    k = whole("k", k)
    if not 1 <= k <= vocabulary:
        raise DposcopeError(f"k {k} is out of range; give 1 to {vocabulary:,} tokens")
    return k


def _decode(lm: LanguageModel, ids: Tensor) -> list[str]:
    return token_texts(lm.tokenizer, ids.tolist())
