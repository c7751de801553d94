"""When the memory is too small for a batch: the work is done again with half of it, down to one text at a time."""

import gc
import inspect
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import torch

from dposcope.errors import DposcopeError, SmallerBatches, first_line, is_memory

P = ParamSpec("P")
T = TypeVar("T")

_OUTER: ContextVar[bool] = ContextVar("outer", default=False)
"""Whether a caller further out repeats the work, or nobody may."""

_SMALLER: Final = 16
"""Texts at a time after a batch whose size nobody set was too large: half of the fewest that such a batch has."""


def halving_batches(work: Callable[P, T]) -> Callable[P, T]:
    """Let a function with a keyword `batch_size` repeat itself with half of it whenever memory is too small; with 16
    where it is None.

    The function must begin from nothing at each call. It is then done again as a whole, so nothing is counted twice,
    and the result is that of the smaller batches. Little is lost: the longest texts come first.

    Raises:
        DposcopeError: the memory is too small for one text.
    """
    return _repeating(work, hint=": --batch-size {} saves the first try")


def halving_own_batches(work: Callable[P, T]) -> Callable[P, T]:
    """As `halving_batches`, for batches whose size no option of a command sets."""
    return _repeating(work, hint="")


def _repeating(work: Callable[P, T], *, hint: str) -> Callable[P, T]:
    default: int | None = inspect.signature(work).parameters["batch_size"].default

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        if _OUTER.get():
            return work(*args, **kwargs)
        size: Any = kwargs.get("batch_size", default)  # `work` checks it
        while True:
            try:
                with unrepeated():
                    return work(*args, **{**kwargs, "batch_size": size})  # pyright: ignore[reportCallIssue]
            except (MemoryError, RuntimeError) as error:
                if not is_memory(error):
                    raise
                told = first_line(error)
            # Outside of `except`: the exception keeps the tensors of all its frames.
            release()
            if size is not None and size <= 1:
                raise DposcopeError(
                    f"the memory is too small for a single text ({told}); use --dtype bfloat16, shorter texts, a "
                    "smaller model, or another --device"
                )
            tried, size = size, _SMALLER if size is None else size // 2
            warnings.warn(
                f"out of memory{'' if tried is None else f' with batches of {tried}'}; going on with "
                f"{size if tried else f'batches of {size}'}{hint.format(size)}",
                SmallerBatches,
                stacklevel=2,
            )

    return run


@contextmanager
def unrepeated() -> Generator[None]:
    """Within, no function repeats itself: someone counts what the model computes."""
    before = _OUTER.set(True)
    try:
        yield
    finally:
        _OUTER.reset(before)


def release() -> None:
    """Give back what a failed try still held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
