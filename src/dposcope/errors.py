"""The one exception a user meets: what is wrong, and how to mend it."""


class DposcopeError(Exception):
    """Bad input, or a request that cannot be met.

    The message is one line that names the fault and the mend. The command line
    prints it without a traceback and exits with code 2.
    """


def plural(count: int, noun: str) -> str:
    """`plural(1, "row")` is "1 row", `plural(3, "row")` is "3 rows"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
