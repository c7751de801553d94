"""One text where several belong: Python takes a text for the sequence of its letters."""

from collections.abc import Iterable

from dposcope.errors import DposcopeError


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
