"""Token contrast: a direction from token embeddings, without a probe (paper 6.2, Table 7)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from dposcope.data.texts import listed
from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm
from dposcope.model.head.logits import transform, unembedding
from dposcope.model.language_model import LanguageModel
from dposcope.protocols import Protocol, check_choice


def contrast_matrix(protocol: Protocol) -> Literal["input", "output"]:
    """Which embedding a protocol takes: the paper's text the input's, the published code the unembedding."""
    return "input" if protocol == "strict" else "output"


@torch.no_grad()
def token_contrast(
    lm: LanguageModel,
    toxic: Sequence[str],
    non_toxic: Sequence[str],
    *,
    matrix: Literal["input", "output"] = "input",
    leading_space: bool = False,
) -> Direction:
    """Mean embedding of the toxic seed words minus that of the non-toxic seed words.

    A seed word of several tokens counts as the mean of their embeddings. Special tokens are left out.

    Args:
        lm: the model.
        toxic: seed words with the concept.
        non_toxic: seed words without it.
        matrix: `input` embedding (the paper's text) or `output`, the unembedding (the published code, for
            all models but GPT-2; in Llama and Mistral the two differ).
        leading_space: put a space before each seed word; with most tokenizers a word inside a text has other tokens.

    Raises:
        DposcopeError: a side has no seed word, or a seed word gives no token; or rows of the unembedding are no vectors
            of the residual stream, as something stands before it (ModernBERT).
    """
    check_lm(lm)
    check_choice("matrix", matrix, ("input", "output"))
    toxic, non_toxic = listed("toxic", toxic), listed("non_toxic", non_toxic)
    if not toxic or not non_toxic:
        raise DposcopeError("token contrast needs at least one seed word on each side")
    if matrix == "output" and transform(lm.model) is not None:
        raise DposcopeError(
            f"the unembedding of {lm.name} reads no residual stream, but what layers behind the final norm make of it; "
            "take the rows of the embedding (matrix='input', which is --protocol strict)"
        )
    embedding: Any = lm.model.get_input_embeddings() if matrix == "input" else unembedding(lm.model)
    table: Tensor = embedding.weight
    vector = _mean(lm, table, toxic, leading_space) - _mean(lm, table, non_toxic, leading_space)
    about = {
        "model": lm.name,
        "fingerprint": lm.fingerprint,
        "matrix": matrix,
        "leading_space": leading_space,
        "seeds_with": len(toxic),
        "seeds_without": len(non_toxic),
    }
    return Direction(vector, "token_contrast", -1, about)


def _mean(lm: LanguageModel, table: Tensor, seeds: Sequence[str], leading_space: bool) -> Tensor:
    rows: list[Tensor] = []
    for seed in seeds:
        text = f" {seed}" if leading_space else seed
        ids: list[int] = lm.tokenizer(text, add_special_tokens=False)["input_ids"]  # pyright: ignore[reportAssignmentType]
        if not ids:
            raise DposcopeError(f"the seed word {seed!r} gives no token; remove it")
        rows.append(table[torch.tensor(ids, device=table.device)].double().mean(0).cpu())
    return torch.stack(rows).mean(0)
