"""The one exception a user meets: what is wrong, and how to mend it; and the one warning."""

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


def plural(count: int, noun: str) -> str:
    """`plural(1, "row")` is "1 row", `plural(3, "row")` is "3 rows"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def first_line(error: BaseException) -> str:
    """What an exception says, in one line; its kind where it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = [line.strip() for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__)
