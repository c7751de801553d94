"""Make text of models and data safe for a page: masked, without invisible characters, and escaped.

Everything that a page prints passes through `ShownText`. It replaces letters of offensive words by stars, and stores
the words in a list that only the page's switch reads. It replaces characters that are not shown by visible marks: line
breaks, control characters, marks that change the writing direction, and lone surrogates, which UTF-8 cannot encode.
"""

import json
import re
import unicodedata
from typing import Any

from markupsafe import Markup, escape

from dposcope.data.masking import mask_offensive
from dposcope.foreign_text import mark_of

_SPACE = "␣"

_NEURON = re.compile(r"(?<=\bv )(\d+\.\d+(?:\.\d+)?)\b")
"""A neuron as tables name it: v, then block.index."""

# Joiners are part of emoji and of several scripts, so texts keep them. A token that is a joiner is shown as a mark.
_JOINERS = frozenset("\u200c\u200d")


class ShownText:
    """Masks and escapes texts, and collects the masked words. One per page."""

    def __init__(self) -> None:
        """No word yet."""
        self._words: dict[str, int] = {}
        self._masked = 0

    def text(self, text: str) -> Markup:
        """Running text as HTML."""
        return self._markup(text, token=False)

    def token(self, token: str) -> Markup:
        """One token as HTML, its spaces visible."""
        return self._markup(token, token=True)

    def linked(self, text: str) -> Markup:
        """Running text as HTML in which every neuron, named as in `v 12.345`, is a link to its view."""
        parts = _NEURON.split(text)
        link = Markup('<a class="neuron" href="#{0}">{0}</a>')
        return Markup("").join(link.format(part) if place % 2 else self.text(part) for place, part in enumerate(parts))

    def plain(self, text: str) -> str:
        """Masked text without markup, for attributes, titles and figures; the page's switch cannot unmask it."""
        masked = mask_offensive(str(text))  # what a template lacks says so as a text
        return "".join(_mark(char, token=False) or char for char in masked)

    def finalize(self, value: Any) -> Any:
        """Called for everything that a template prints: masks strings, unless they are markup already."""
        return self.text(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    @property
    def masked(self) -> int:
        """How many places are masked so far."""
        return self._masked

    def words(self) -> Markup:
        """The masked words as JSON that may stand in a script element; `data-w` of a span is an index into it."""
        listed = json.dumps(list(self._words), ensure_ascii=True)
        # "</script>" and "<!--" must not be readable to the HTML parser, wherever the words come from.
        return Markup(re.sub("[<>&]", lambda match: f"\\u{ord(match.group()):04x}", listed))

    def _markup(self, text: str, *, token: bool) -> Markup:
        masked = mask_offensive(str(text))  # see `plain`
        parts: list[Markup] = []
        position = 0
        for start, end in _masked_words(text, masked):
            parts.append(_visible(masked[position:start], token=token))
            index = self._words.setdefault(text[start:end], len(self._words))
            self._masked += 1
            parts.append(Markup('<span class="w" data-w="{}">{}</span>').format(index, masked[start:end]))
            position = end
        parts.append(_visible(masked[position:], token=token))
        return Markup("").join(parts)


def _masked_words(text: str, masked: str) -> list[tuple[int, int]]:
    """Spans of whole words of `text` that masking changed."""
    spans: list[tuple[int, int]] = []
    for index, (before, after) in enumerate(zip(text, masked, strict=True)):
        if before == after or (spans and index < spans[-1][1]):
            continue
        start, end = index, index + 1
        while start > 0 and _in_word(text[start - 1]):
            start -= 1
        while end < len(text) and (_in_word(text[end]) or text[end] != masked[end]):
            end += 1
        spans.append((start, end))
    return spans


def _in_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _visible(text: str, *, token: bool) -> Markup:
    parts: list[Markup] = []
    run = ""
    for char in text:
        mark = _mark(char, token=token)
        if mark is None:
            run += char
        else:
            parts += [escape(run), Markup('<span class="c">{}</span>').format(mark)]
            run = ""
    return Markup("").join([*parts, escape(run)])


def _mark(char: str, *, token: bool) -> str | None:
    """The mark to show for an invisible character; None for a visible one."""
    category = unicodedata.category(char)
    if token and char == " ":
        return _SPACE
    if category in {"Co", "Cn"} or (token and category == "Zs"):  # what a font may lack, and what looks like a space
        return f"U+{ord(char):04X}"
    return None if char in _JOINERS and not token else mark_of(char)
