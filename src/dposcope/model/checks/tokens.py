"""Tokens for which a model has no embedding: tokens were added to its tokenizer, and its embedding was not resized."""

from collections.abc import Iterable
from typing import Any

from dposcope.errors import DposcopeError, plural
from dposcope.model.checks.config import MEND
from dposcope.model.language_model import LanguageModel
from dposcope.model.tuned import embedding_rows


def check_tokens(lm: LanguageModel, name: str) -> None:
    """Refuse a tokenizer that makes such tokens.

    The tokens for padding and for what is unknown are not meant: transformers adds them to some tokenizers by itself,
    and texts hardly ever hold them. `check_ids` refuses a text that does.

    Args:
        lm: the model.
        name: what the user calls it.

    Raises:
        DposcopeError: it makes some, or the generation config has an end-of-text token that is no number.
    """
    ends: list[Any] = [*lm.end_ids]  # as a file has them
    if not all(isinstance(token, int) for token in ends):
        raise DposcopeError(f"{name} has an end-of-text token (eos_token_id) that is no number; {MEND}")
    rows, vocabulary = embedding_rows(lm), lm.tokenizer.get_vocab()
    own = [lm.tokenizer.pad_token, lm.tokenizer.unk_token]
    beyond = sorted(token for token, number in vocabulary.items() if number >= rows and token not in own)
    if beyond:
        raise DposcopeError(
            f"the tokenizer of {name} makes {plural(len(beyond), 'token')} beyond the {rows:,} rows of its embedding, "
            f"such as {beyond[0]!r}; call model.resize_token_embeddings({1 + max(vocabulary.values())}) and save "
            "it again, or give it the tokenizer that it was trained with"
        )


def check_ids(lm: LanguageModel, ids: Iterable[int]) -> None:
    """Refuse a text with such a token.

    Raises:
        DposcopeError: it has one; the message names it.
    """
    rows = embedding_rows(lm)
    strange = next((token for token in ids if not 0 <= token < rows), None)
    if strange is not None:
        written = next((token for token, number in lm.tokenizer.get_vocab().items() if number == strange), "?")
        raise DposcopeError(
            f"a text holds the token {written!r} (number {strange:,}), for which {lm.name} has no embedding; remove it "
            "from the text"
        )
