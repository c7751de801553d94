"""What an exception says, in one line."""

import pytest

from dposcope.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such thing\nmore of it"), "no such thing"),
        (ValueError("\n  indented\n"), "indented"),
        (
            ValueError("Validation error for field 'a':\n    TypeError: it is a list\nmore"),
            "Validation error for field 'a': TypeError: it is a list",
        ),
        (ValueError("only this:"), "only this:"),
        (ValueError(), "ValueError"),
        (RuntimeError("   \n"), "RuntimeError"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("only a text"), "only a text"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_the_first_line_that_says_something_or_the_kind(error, line):
    assert first_line(error) == line
