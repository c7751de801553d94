"""A scorer that can be read: how many words of a list a text has."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dposcope.artefacts import text_digest
from dposcope.data.named import located
from dposcope.data.tables import read_text
from dposcope.errors import DposcopeError
from dposcope.evaluation.trained_scorer import score_spoken


class WordScorer:
    """1 − 2⁻ⁿ for a text with n different words of the list: 0, 0.5, 0.75, 0.875 …

    Each further word halves what is missing to 1, so a short text with two words is told from one with none much
    more clearly than one with six from one with five. A word counts once, however often it is said: a text that
    repeats itself gains nothing by it. Whole words count, upper and lower case alike, with a plural in -s or -es.
    """

    def __init__(self, words: Sequence[str], *, name: str) -> None:
        """`words` may hold spaces, as in "ice cream"; `name` is what reports call the scorer.

        Raises:
            DposcopeError: there is no word.
        """
        listed = sorted({" ".join(word.lower().split()) for word in words} - {""}, key=lambda word: (-len(word), word))
        if not listed:
            raise DposcopeError(f"the list {name} holds no word; give one a line")
        # Other words of the same name are another scorer to whoever keeps scores.
        self.name = f"words {name} {text_digest(*listed)[:8]}"
        either = "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in listed)
        self._pattern = re.compile(rf"(?<!\w)({either})(?:e?s)?(?!\w)")

    @classmethod
    def load(cls, source: str | Path) -> "WordScorer":
        """Read a text file of one word a line; blank lines and those that begin with # are left out.

        Args:
            source: a path, or `builtin:FILE`.

        Raises:
            DposcopeError: it is missing, not UTF-8, or holds no word.
        """
        with located(source, "") as path:
            lines = read_text(path).splitlines()
        return cls([line for line in lines if not line.lstrip().startswith("#")], name=Path(path).name)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Scores [n] in [0, 1)."""
        return score_spoken(texts, self._shares)

    def _shares(self, texts: Sequence[str]) -> NDArray[np.float64]:
        found = [{" ".join(word.split()) for word in self._pattern.findall(text.lower())} for text in texts]
        return 1.0 - 0.5 ** np.array([len(words) for words in found], dtype=np.float64)
