"""Offensive words: which text holds one, and how to show it without spelling it out.

The words are data, in `wordlist.txt`. The list is used by the token judge of a lens, and wherever text is
shown to people. It matches words, not meaning: a quotation is a match; an insult without a listed word or with a
disguised spelling ("1d10t") is not.
"""

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Final

from dposcope.data.texts import check_text

_VOWELS: Final = frozenset("aeiouáéíóúäöü")
# Byte-level tokenizers write a space, a line break and a tab as these characters, which `re` takes for letters.
_TOKENIZER_SPACES: Final = str.maketrans("ĠĊĉ", "   ")

_SHORT: Final = 200
"""Characters of the longest text whose stars are remembered."""

_WORD_STARTS = r"(?<![^\W\d_])"
# A word that ends at a star of an earlier masking is not a whole word.
_WORD_ENDS = r"(?:(?<=[sxzh])es|[sz])?(?![^\W\d_])(?!\*[^\W\d_])"
_SURROUNDINGS: Final = {
    "anywhere": ("", ""),
    "start": (_WORD_STARTS, ""),
    "word": (_WORD_STARTS, _WORD_ENDS),
}


@dataclass(frozen=True)
class _Patterns:
    """Patterns for lower-cased text."""

    offensive: re.Pattern[str]
    """Its named groups are the levels. It matches the part of a word that is starred."""
    innocent: re.Pattern[str]
    words: int
    """Of the longest entry of the list."""


def contains_offensive(text: str) -> bool:
    """Whether `text`, be it a sentence or one token of a vocabulary, holds a listed word of any level.

    Upper and lower case are equal. A tokenizer's marks for a space (`▁`, `Ġ`) end a word.
    """
    return bool(_offences(text))


def mask_offensive(text: str) -> str:
    """`text` with its slurs and strong words starred; mild ones ("stupid") stay.

    A strong word keeps its first letter and its ending, as in the paper's tables. A slur keeps its first letter only.
    The length never changes, and masking a masked text changes nothing.

    Raises:
        DposcopeError: it is no text.
    """
    check_text("text", text)
    return _masked_once(text) if len(text) <= _SHORT else _masked(text)


@lru_cache(maxsize=1 << 14)
def _masked_once(text: str) -> str:
    """Of a name, a label or a token, which pages and tables show again and again."""
    return _masked(text)


def _masked(text: str) -> str:
    shown = text
    # After a word is starred, a word that overlapped it can match.
    while (starred := _star_once(shown)) != shown:
        shown = starred
    return shown


def settled(text: str) -> int:
    """How many characters at the start of a text that still grows have their stars for good.

    Its last word may go on, and the words before it may be the beginning of an entry of several words.
    """
    end = len(text)
    for _ in range(_patterns().words):
        end = max(text.rfind(" ", 0, end), text.rfind("\n", 0, end), 0)
    return end


def read_encoded(line: str) -> str:
    """Decode one rot13 line of the package's own data files."""
    return codecs.decode(line, "rot13")


def _star_once(text: str) -> str:
    shown = list(text)
    for match in _offences(text):
        if match.lastgroup != "mild":
            stars = range(1, len(match.group())) if match.lastgroup == "slur" else _starred(match.group())
            for index in stars:
                shown[match.start() + index] = "*"
    return "".join(shown)


def _offences(text: str) -> list[re.Match[str]]:
    """The listed words in `text`, except those inside an innocent word. Indices refer to `text`."""
    lowered, patterns = _lower(text), _patterns()
    matches = list(patterns.offensive.finditer(lowered))
    if not matches:
        return matches
    innocent = [match.span() for match in patterns.innocent.finditer(lowered)]
    return [match for match in matches if not any(start <= match.start() < end for start, end in innocent)]


def _starred(word: str) -> range:
    """Letters to star: the first vowel after the first letter; after a vowel as first letter, up to two letters."""
    inner = range(1, len(word))
    if word[0] in _VOWELS:
        return range(1, min(3, next((i for i in inner if word[i] in _VOWELS), len(word))))
    vowel = next((i for i in inner if word[i] in _VOWELS), 1)
    return range(vowel, vowel + 1)


def _lower(text: str) -> str:
    """Lower case with the same length: "İ".lower() has two characters and would shift the indices after it."""
    spaced = text.translate(_TOKENIZER_SPACES)
    lowered = spaced.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(char.lower() if len(char.lower()) == 1 else char for char in spaced)


@cache
def _patterns() -> _Patterns:
    lines = resources.files("dposcope.data").joinpath("wordlist.txt").read_text(encoding="utf-8").splitlines()
    sections: dict[str, list[str]] = {}
    entries: list[str] = []
    for line in lines:
        if line.startswith("["):
            entries = sections.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            entries.append(read_encoded(line))
    words = max(entry.count(" ") + 1 for section in sections.values() for entry in section)
    innocent = _either(map(re.escape, _longest_first(sections.pop("innocent"))))
    levels: dict[str, list[str]] = {}
    for section, stems in sections.items():
        level, where = section.split()
        before, after = _SURROUNDINGS[where]
        levels.setdefault(level, []).append(before + _either(map(_starred_part, _longest_first(stems))) + after)
    return _Patterns(
        offensive=re.compile("|".join(f"(?P<{level}>{'|'.join(parts)})" for level, parts in levels.items())),
        # It matches the whole run of letters around an entry.
        innocent=re.compile(rf"{_WORD_STARTS}[^\W\d_]*{innocent}[^\W\d_]*"),
        words=words,
    )


def _starred_part(stem: str) -> str:
    """A pattern of `stem`, or of the part after its bar. The match is the part that is starred."""
    compound, bar, word = stem.partition("|")
    return f"(?<={re.escape(compound)}){re.escape(word)}" if bar else re.escape(stem)


def _longest_first(stems: list[str]) -> list[str]:
    return sorted(stems, key=len, reverse=True)


def _either(patterns: Iterable[str]) -> str:
    return f"(?:{'|'.join(patterns)})"
