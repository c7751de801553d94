"""Texts as a caller gives them: to Python one text is a list of letters, and a dictionary the list of its keys."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, cast

from dposcope.errors import DposcopeError

T = TypeVar("T")


def check_text(name: str, text: object) -> None:
    """Refuse what is no text where one belongs.

    Args:
        name: of the argument, for the message.
        text: what was given for it.

    Raises:
        DposcopeError: it is none.
    """
    if not isinstance(text, str):
        raise DposcopeError(f"{name} is a {type(text).__name__}, and one text belongs here; give one")


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


def listed(name: str, texts: Iterable[T] | None, *, conversations: bool = False) -> list[T]:
    """Texts of any kind of list (a generator, a numpy array, a column of a table) as a list.

    Args:
        name: of the argument, for the message.
        texts: texts.
        conversations: whether some may be conversations, lists of turns, which become tuples.

    Raises:
        DposcopeError: it is one text, no list, or holds something that is no text, such as the None of an empty cell.
    """
    check_texts(name, texts)
    # A set has no order, and a frame would give the names of its columns.
    if (
        not isinstance(texts, Iterable)
        or isinstance(texts, Mapping | set | frozenset)
        or type(texts).__name__ == "DataFrame"
    ):
        raise DposcopeError(f"{name} is a {type(texts).__name__}, and a list of texts belongs here; give one")
    found = list(texts)
    for place, one in enumerate(found):
        if conversations and _is_conversation(one):
            found[place] = cast(T, tuple(cast(list[Any], one)))
        elif not isinstance(one, str):
            mend = "give texts"
            if conversations and isinstance(one, list | tuple):
                mend += ", or conversations as tuples of dposcope.Turn(role, content)"
            raise DposcopeError(f"number {place + 1} of {name} is a {type(one).__name__} and no text; {mend}")
    return found


def _is_conversation(one: object) -> bool:
    if not isinstance(one, list | tuple) or not one:
        return False
    return all(hasattr(turn, "role") and hasattr(turn, "content") for turn in cast(list[object], one))
