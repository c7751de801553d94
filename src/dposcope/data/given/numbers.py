"""Numbers as a caller gives them: of numpy and torch as well as of Python."""

import operator
from contextlib import suppress
from typing import Any, Final

from dposcope.errors import DposcopeError

MOST_SEED: Final = (1 << 32) - 1
"""Of numpy and scikit-learn."""


def whole(name: str, value: Any) -> int:
    """A whole number of Python, numpy or torch.

    Args:
        name: of the argument, for the message.
        value: what was given for it.

    Raises:
        DposcopeError: it is none. True and False are none.
    """
    if not _is_bool(value):
        with suppress(TypeError, ValueError, RuntimeError):
            return operator.index(value)
    raise DposcopeError(f"{name} {value!r:.40} is no whole number; give one, such as 1")


def number(name: str, value: Any) -> float:
    """A number of Python, numpy or torch.

    Args:
        name: of the argument, for the message.
        value: what was given for it.

    Raises:
        DposcopeError: it is none. True and False are none.
    """
    if not isinstance(value, str) and not _is_bool(value):  # of which Python would read some
        with suppress(TypeError, ValueError, RuntimeError):
            return float(value)
    raise DposcopeError(f"{name} {value!r:.40} is no number; give one, such as 1")


def _is_bool(value: Any) -> bool:
    # A mask in the place of numbers would choose 0 and 1.
    return isinstance(value, bool) or str(getattr(value, "dtype", "")).removeprefix("torch.") == "bool"


def seed_of(value: Any) -> int:
    """The seed of a draw.

    Args:
        value: what was given for it.

    Raises:
        DposcopeError: it is no whole number from 0 to 2³² − 1.
    """
    seed = whole("seed", value)
    if not 0 <= seed <= MOST_SEED:
        raise DposcopeError(f"seed {seed} is outside 0 … 2³² − 1")
    return seed
