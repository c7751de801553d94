"""Phrases that a model writes more often than the plain one, over many texts.

`repetition` looks within one text. A model that begins every text alike repeats nothing there, and these see it.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from typing_extensions import TypedDict

from dposcope.data.given.numbers import whole
from dposcope.data.short import short_repr
from dposcope.data.texts import listed
from dposcope.errors import DposcopeError
from dposcope.evaluation.repetition import word_grams
from dposcope.evaluation.statistics.comparisons import paired_difference
from dposcope.evaluation.statistics.intervals import Difference, StoredDifference, stored_fields

LENGTHS = (2, 3, 4)
"""Words of a phrase."""
Words = tuple[str, ...]


class StoredPhrase(TypedDict):
    """A `Phrase` in a file."""

    words: str
    share: float
    base_share: float
    rise: StoredDifference


@dataclass(frozen=True)
class Phrase:
    """Lower-cased words in a row, and how many texts hold them."""

    words: str
    share: float
    """Of the model's texts."""
    base_share: float
    """Of the plain model's texts to the same prompts."""
    rise: Difference
    """`share − base_share`, paired by prompt. The phrase was chosen for its rise, so that of the first is too large."""

    __repr__ = short_repr

    def to_dict(self) -> dict[str, Any]:
        """The fields as `scores.json` holds them; the words as they are."""
        return asdict(self, dict_factory=stored_fields)

    @classmethod
    def from_dict(cls, stored: StoredPhrase) -> "Phrase":
        """Read what `to_dict` wrote."""
        return cls(stored["words"], stored["share"], stored["base_share"], Difference.from_dict(stored["rise"]))


def risen_phrases(texts: Sequence[str], base_texts: Sequence[str], *, most: int = 10) -> list[Phrase]:
    """The phrases of 2 to 4 words whose share of texts rose most, the largest rise first.

    Of phrases that rose alike the longer one comes first, then the alphabet decides. A phrase that is part of a longer
    one before it in the list, with the same rise, is left out.

    Args:
        texts: a model's, one per prompt.
        base_texts: the plain model's, of the same prompts in the same order.
        most: length of the list.

    Raises:
        DposcopeError: no text, or not as many of the one as of the other.
    """
    texts, base_texts = listed("texts", texts), listed("base_texts", base_texts)
    most = whole("most", most)
    if not texts or len(texts) != len(base_texts):
        raise DposcopeError(
            f"there are {len(texts)} texts and {len(base_texts)} of the plain model; give one of each per prompt"
        )
    ours, theirs = [_phrases(text) for text in texts], [_phrases(text) for text in base_texts]
    rises = Counter(phrase for held in ours for phrase in held)
    rises.subtract(phrase for held in theirs for phrase in held)
    chosen: list[Words] = []
    for phrase, rise in sorted(rises.items(), key=lambda one: (-one[1], -len(one[0]), one[0])):
        if rise <= 0 or len(chosen) == most:
            break
        if not any(rises[longer] == rise and _within(phrase, longer) for longer in chosen):
            chosen.append(phrase)
    return [_measured(phrase, ours, theirs) for phrase in chosen]


def distinct_pairs(texts: Sequence[str]) -> int:
    """How many different word pairs stand in all texts together; a pair never crosses from one text to the next."""
    return len({pair for text in listed("texts", texts) for pair in word_grams(text, 2)})


def _phrases(text: str) -> set[Words]:
    return {gram for length in LENGTHS for gram in word_grams(text, length)}


def _within(short: Words, long: Words) -> bool:
    return any(long[start : start + len(short)] == short for start in range(len(long) - len(short) + 1))


def _measured(words: Words, ours: Sequence[set[Words]], theirs: Sequence[set[Words]]) -> Phrase:
    held = np.array([words in one for one in ours], dtype=np.float64)
    base = np.array([words in one for one in theirs], dtype=np.float64)
    return Phrase(" ".join(words), float(held.mean()), float(base.mean()), paired_difference(held, base))
