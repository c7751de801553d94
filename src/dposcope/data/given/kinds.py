"""Values of the project's own classes, as a caller gives them."""

from dposcope.errors import DposcopeError


def check_kind(name: str, given: object, kind: type, mend: str) -> None:
    """Refuse what is of another class.

    Args:
        name: of the argument, for the message.
        given: what was given for it.
        kind: what it must be.
        mend: what to give instead.

    Raises:
        DposcopeError: it is of another class.
    """
    if not isinstance(given, kind):
        raise DposcopeError(f"{name} is a {type(given).__name__}; give {mend}")
