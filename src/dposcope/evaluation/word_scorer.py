"""A simple scorer: how many words of a list occur in a text."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dposcope.artefacts import text_digest
from dposcope.data.named import located
from dposcope.data.tables import read_text
from dposcope.errors import DposcopeError
from dposcope.evaluation.scorer import Scorer


def word_scorer(words: Sequence[str], *, name: str) -> Scorer:
    """1 − 2⁻ⁿ for a text with n different words of the list: 0, 0.5, 0.75, 0.875 …

    Each further word halves the distance to 1, so the difference between no word and two is much larger than between
    five and six. Each word counts once, so repetition does not raise the score. Only whole words match, in upper or
    lower case, also with a plural in -s or -es.

    Args:
        words: may hold spaces, as in "ice cream".
        name: the list's name in reports.

    Raises:
        DposcopeError: there is no word.
    """
    listed = sorted({" ".join(word.lower().split()) for word in words} - {""}, key=lambda word: (-len(word), word))
    if not listed:
        raise DposcopeError(f"the list {name} holds no word; give one a line")
    either = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in listed)
    pattern = re.compile(rf"(?<!\w)({either})(?:e?s)?(?!\w)")

    def shares(texts: Sequence[str]) -> NDArray[np.float64]:
        said = [{" ".join(word.split()) for word in pattern.findall(text.lower())} for text in texts]
        return 1.0 - 0.5 ** np.array([len(words) for words in said], dtype=np.float64)

    digest = text_digest(*listed)
    # Two lists may have the same file name, so the scorer's name includes the digest.
    return Scorer(f"words {name} {digest[:8]}", digest, shares)


def load_word_scorer(source: str | Path) -> Scorer:
    """`word_scorer` of a text file of one word a line; blank lines and those that begin with # are left out.

    Args:
        source: a path, or `builtin:FILE`.

    Raises:
        DposcopeError: it is missing, not UTF-8, or holds no word.
    """
    with located(source, "") as path:
        lines = read_text(path).splitlines()
    return word_scorer([line for line in lines if not line.lstrip().startswith("#")], name=Path(path).name)
