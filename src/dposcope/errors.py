"""The one exception a user meets: what is wrong, and how to mend it; and the one warning."""

import errno
from typing import Final

INTERRUPTED: Final = "interrupted; run the same command again to continue"
"""What Ctrl-C is answered with."""


class DposcopeError(Exception):
    """Bad input, or a request that cannot be met.

    The message is one line that names the fault and the mend. The command line
    prints it without a traceback and exits with code 2.
    """


class SmallerBatches(RuntimeWarning):
    """The memory was too small, and work was begun again with smaller batches."""


_NO_MEMORY = ("DefaultCPUAllocator", "allocate memory", "out of memory", "not enough memory")


def is_memory(error: BaseException) -> bool:
    """Whether the system, torch or a GPU had no memory left. torch has no error of its own for the first."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    if type(error).__name__ == "OutOfMemoryError":  # torch's, and not imported for that
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def plural(count: int, noun: str) -> str:
    """`plural(1, "row")` is "1 row", `plural(3, "row")` is "3 rows"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def sentence(note: str) -> str:
    """A note as a sentence of a report: `sentence("it stops")` is "It stops."."""
    return f"{note[:1].upper()}{note[1:]}."


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its kind where it says nothing. A line that ends in a colon is told with
    the next one."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
