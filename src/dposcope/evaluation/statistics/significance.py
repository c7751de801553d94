"""The sign-flip test of paired values, and Holm's correction for many tests."""

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from dposcope.evaluation.statistics.columns import checked
from dposcope.evaluation.statistics.intervals import LEVEL
from dposcope.protocols import LEAST_ITEMS

_FLIPPED_AT_ONCE = 1_000_000
"""Signs: 8 MB."""
_KEPT = 2_000_000
"""Signs that are kept for the next test on as many pairs: at most 2 MB of each of eight numbers of pairs."""
_SIZES = 8


def holm(p_values: Sequence[float], *, level: float = LEVEL) -> list[bool]:
    """Which of several tests reject, if the chance that any of them rejects wrongly is to stay below `level`.

    Holm's step-down: the smallest p-value is held against level / m, the next against level / (m − 1), and so on up to
    the first that fails (Holm, *A simple sequentially rejective multiple test procedure*, 1979).
    """
    rejected = [False] * len(p_values)
    for rank, test in enumerate(sorted(range(len(p_values)), key=lambda test: p_values[test])):
        if p_values[test] > level / (len(p_values) - rank):
            break
        rejected[test] = True
    return rejected


def sign_flip_p(differences: ArrayLike, *, flips: int = 10_000, seed: int = 0) -> float:
    """How often the mean of paired differences is as far from 0 if each has its sign by chance (two-sided).

    Without a difference between two conditions, each pair could as well be the other way round. So the test holds for
    any number of pairs that differ. The p-value is at least the tail of the normal distribution beyond Σd / √Σd², which
    is about that of such sums (Efron, *Student's t-test under symmetry conditions*, 1969): 29 pairs that differ by
    next to nothing and one that differs much are one pair that differs. Where fewer than ten flips reach the mean,
    their share says little, and the tail alone is taken.

    Args:
        differences: of each pair, [n].
        flips: how many assignments of signs are drawn.
        seed: of the draws.

    Returns:
        1 with fewer than ten pairs, as there is no interval.
    """
    column = checked(differences, "differences")
    length = float(np.sqrt((column**2).sum()))
    if len(column) < LEAST_ITEMS or length == 0:
        return 1.0
    found = abs(float(column.sum()))
    near = 1e-9 * float(np.abs(column).sum())
    column = column[column != 0]  # whatever their sign
    reach = sum(
        int(np.count_nonzero(np.abs(signs @ column) >= found - near)) for signs in _signs(len(column), flips, seed)
    )
    tail = float(2 * ndtr(-found / length))
    return max(tail, (reach + 1) / (flips + 1)) if reach >= LEAST_ITEMS else tail


def _signs(n: int, flips: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """−1 or 1, `[flips, n]`, in parts; the same for all tests on as many pairs."""
    parts = _kept_signs(n, flips, seed) if n * flips <= _KEPT else _drawn_signs(n, flips, seed)
    return (part.astype(np.float64) for part in parts)


@lru_cache(maxsize=_SIZES)
def _kept_signs(n: int, flips: int, seed: int) -> tuple[NDArray[np.int8], ...]:
    """Kept, as a test of every measure of every condition takes the same."""
    return tuple(_drawn_signs(n, flips, seed))


def _drawn_signs(n: int, flips: int, seed: int) -> Iterator[NDArray[np.int8]]:
    generator = np.random.default_rng(seed)
    step = max(1, _FLIPPED_AT_ONCE // n)
    for start in range(0, flips, step):
        drawn = generator.integers(0, 2, size=(min(step, flips - start), n))
        yield (2 * drawn - 1).astype(np.int8)
