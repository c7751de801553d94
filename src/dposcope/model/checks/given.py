"""Numbers and tensors as a caller gives them: of numpy and torch as well as of Python."""

import operator
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from torch import Tensor

from dposcope.errors import DposcopeError


def whole(name: str, value: Any) -> int:
    """A whole number of Python, numpy or torch.

    Args:
        name: of the argument, for the message.
        value: what was given for it.

    Raises:
        DposcopeError: it is none.
    """
    try:
        return operator.index(value)
    except TypeError:
        raise DposcopeError(f"{name} {value!r:.40} is no whole number; give one, such as 1") from None


def blocks_given(name: str, values: Any) -> list[int]:
    """Numbers of blocks: a list, a range, an array or a tensor of them.

    Args:
        name: of the argument, for the message.
        values: what was given for it.

    Raises:
        DposcopeError: it is no list of whole numbers.
    """
    if not isinstance(values, Iterable):
        raise DposcopeError(f"{name} {values!r:.40} are no list of blocks; write the number in brackets: [0]")
    return [whole(f"{name}: block", value) for value in values]  # pyright: ignore[reportUnknownVariableType]


def number(name: str, value: Any) -> float:
    """A number of Python, numpy or torch.

    Args:
        name: of the argument, for the message.
        value: what was given for it.

    Raises:
        DposcopeError: it is none.
    """
    if not isinstance(value, str):  # of which Python would read some
        with suppress(TypeError, ValueError, RuntimeError):
            return float(value)
    raise DposcopeError(f"{name} {value!r:.40} is no number; give one, such as 1")


def check_tensor(name: str, value: object) -> None:
    """Refuse what is no tensor.

    Raises:
        DposcopeError: it is none.
    """
    if not isinstance(value, Tensor):
        raise DposcopeError(f"{name} are a {type(value).__name__} and no tensor; give torch.as_tensor(…) of them")
