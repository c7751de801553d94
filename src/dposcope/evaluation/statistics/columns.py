"""Values of items, as statistics take them."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dposcope.errors import DposcopeError, plural


def checked(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Values of items as float64, [n].

    Args:
        values: one number of each item, [n].
        name: what they are called in a message.

    Raises:
        DposcopeError: another shape, no value, or one that is not finite.
    """
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):
        raise DposcopeError(f"{name} are no numbers; give one number per item, shape [n]") from None
    if column.ndim != 1:
        raise DposcopeError(f"{name} has shape {column.shape}; give one number per item, shape [n]")
    if not len(column):
        raise DposcopeError(f"{name} is empty; a mean needs at least one item")
    bad = int((~np.isfinite(column)).sum())
    if bad:
        raise DposcopeError(
            f"{bad:,} of {plural(len(column), 'number')} in {name} {'is' if bad == 1 else 'are'} not finite; "
            "score those items again, or leave them out of every condition"
        )
    return column


def checked_pair(
    a: ArrayLike, b: ArrayLike, a_name: str, b_name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """`checked` values of two conditions on the same items.

    Args:
        a: one condition, [n].
        b: the other, [n].
        a_name: what the first is called in a message.
        b_name: what the second is called.

    Raises:
        DposcopeError: see `checked`; or their lengths differ.
    """
    left, right = checked(a, a_name), checked(b, b_name)
    if len(left) != len(right):
        raise DposcopeError(
            f"{a_name} has {plural(len(left), 'item')} and {b_name} {len(right):,}; "
            "give the same items to both, in the same order"
        )
    return left, right
