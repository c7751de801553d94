"""What a model wrote, as a person sees it: inert, with its line breaks, and masked unless it is to be raw."""

from dposcope.data.masking import mask_offensive
from dposcope.foreign_text import visible


def shown(text: str, *, raw: bool = False) -> str:
    """The text for a terminal or a page. Letters of offensive words are stars, unless `raw`.

    Line breaks stay. Other characters that act or are not seen become marks.
    """
    words = text if raw else mask_offensive(text)
    return "\n".join(visible(line) for line in words.split("\n"))


def whole_words(text: str) -> str:
    """The text up to its last space or line break: the word after it may still grow, and be another one then."""
    return text[: max(text.rfind(" "), text.rfind("\n"), 0)]


class Stream:
    """A text that grows where nothing can be taken back: whole words are given on, so that they can be masked."""

    def __init__(self, *, raw: bool = False) -> None:
        """Nothing is written yet."""
        self._raw = raw
        self._given = 0

    def grow(self, text: str) -> str:
        """What can be written now.

        Args:
            text: all that there is so far.
        """
        return self._new(whole_words(text))

    def end(self, text: str) -> str:
        """The rest.

        Args:
            text: all of it.
        """
        return self._new(text)

    def _new(self, text: str) -> str:
        whole = shown(text, raw=self._raw)  # masking changes no length
        new, self._given = whole[self._given :], max(self._given, len(whole))
        return new
