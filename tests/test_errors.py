"""What an exception says, in one line."""

import pytest

from dposcope.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("no such thing\nmore of it"), "no such thing"),
        (ValueError("\n  indented\n"), "indented"),
        (ValueError(), "ValueError"),
        (RuntimeError("   \n"), "RuntimeError"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError("only a text"), "only a text"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
    ],
)
def test_the_first_line_that_says_something_or_the_kind(error, line):
    assert first_line(error) == line
