"""What a model wrote, as a person sees it: inert, with its line breaks, and masked unless it is to be raw."""

from typing import Final

from dposcope.data.masking import mask_offensive, settled
from dposcope.foreign_text import visible

NOTHING: Final = "(nothing)"
"""In the place of a text without a word, as on the page of `serve`."""


def shown(text: str, *, raw: bool = False, growing: bool = False) -> str:
    """The text for a terminal or a page. Letters of offensive words are stars, unless `raw`.

    Line breaks stay. Other characters that act or are not seen become marks.

    Args:
        text: any.
        raw: whether no letter becomes a star.
        growing: whether more may follow; then it is without its last words, whose stars depend on what follows.
    """
    words = text if raw else mask_offensive(text)
    if growing:
        words = words[: settled(text)]  # a mask has the length of its word
    return "\n".join(visible(line) for line in words.split("\n"))


class Stream:
    """A text that grows where nothing can be taken back: words are given on once it is sure which are masked."""

    def __init__(self, *, raw: bool = False) -> None:
        """Nothing is written yet."""
        self._raw = raw
        self._given = 0

    def grow(self, text: str) -> str:
        """What can be written now.

        Args:
            text: all that there is so far.
        """
        return self._new(shown(text, raw=self._raw, growing=True))

    def end(self, text: str) -> str:
        """The rest.

        Args:
            text: all of it.
        """
        return self._new(shown(text, raw=self._raw))

    def _new(self, whole: str) -> str:
        new, self._given = whole[self._given :], max(self._given, len(whole))
        return new
