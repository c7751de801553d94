"""One text where several belong: Python takes a text for the sequence of its letters."""

from collections.abc import Iterable
from typing import TypeVar

from dposcope.errors import DposcopeError

T = TypeVar("T")


def check_texts(name: str, texts: Iterable[object] | None) -> None:
    """Refuse one text where a list of texts belongs.

    Args:
        name: of the argument, for the message.
        texts: what was given for it; None: nothing.

    Raises:
        DposcopeError: it is one text.
    """
    if isinstance(texts, str | bytes):
        raise DposcopeError(f'{name} is one text, and a list of texts belongs here; write it in brackets: ["…"]')


def listed(name: str, texts: Iterable[T] | None) -> list[T]:
    """Texts of any kind of list (a generator, a numpy array, a column of a table) as a list.

    Args:
        name: of the argument, for the message.
        texts: texts, or conversations.

    Raises:
        DposcopeError: it is one text, no list, or holds something that is no text, such as the None of an empty cell.
    """
    check_texts(name, texts)
    if not isinstance(texts, Iterable):
        raise DposcopeError(f"{name} is a {type(texts).__name__}, and a list of texts belongs here; give one")
    found = list(texts)
    for place, one in enumerate(found, 1):
        if not isinstance(one, str | list | tuple):
            raise DposcopeError(f"number {place} of {name} is a {type(one).__name__} and no text; give texts")
    return found
