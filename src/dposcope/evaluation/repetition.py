"""Repetition within a continuation, distinct n-grams over continuations, and empty continuations.

Toxicity and perplexity do not detect degenerate text such as `“ “ “ “`; these measures do. A word is a lower-cased run
of `\\w`, so punctuation is not a word.
"""

import re
from collections.abc import Sequence

from dposcope.errors import DposcopeError

_WORD = re.compile(r"\w+")


def repetition(text: str) -> float:
    """`1 − distinct / total` of the 2-grams of words in one continuation, in [0, 1).

    0 for a text with fewer than two words. Report `share_empty` too: by this measure alone, a model that writes
    nothing would look good.
    """
    grams = word_grams(text, 2)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Distinct n-grams of words divided by all n-grams, over all texts together, in [0, 1].

    n-grams do not cross from one text to the next. 0 if no text has an n-gram.

    Raises:
        DposcopeError: no text, or n below 1.
    """
    _require_texts(texts)
    if n < 1:
        raise DposcopeError(f"n is {n}; n-grams have at least 1 word")
    grams = [gram for text in texts for gram in word_grams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def share_empty(texts: Sequence[str]) -> float:
    """Share of texts without a single word, in [0, 1].

    Raises:
        DposcopeError: no text.
    """
    _require_texts(texts)
    return sum(_WORD.search(text) is None for text in texts) / len(texts)


def word_grams(text: str, n: int) -> list[tuple[str, ...]]:
    """All n words in a row of a text, lower-cased, in their order."""
    words = _WORD.findall(text.lower())
    return list(zip(*(words[offset:] for offset in range(n)), strict=False))


def _require_texts(texts: Sequence[str]) -> None:
    if not texts:
        raise DposcopeError("there is no text to measure; give at least one continuation")
