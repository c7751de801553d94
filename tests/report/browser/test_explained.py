"""What two continuations share."""

import pytest

from dposcope.report.browser.explained import TextPair


@pytest.mark.parametrize(
    ("before", "after", "shared"),
    [
        ("and then he ran", "and then he slept", "and then he "),
        ("stupid", "study", ""),  # a word that only begins alike
        ("one\ntwo", "one\nthree", "one\n"),
        ("the same", "the same", "the same"),
        ("the same", "the same and more", "the same"),
        ("", "x", ""),
        ("a", "b", ""),
    ],
)
def test_the_common_beginning_is_whole_words(before, after, shared):
    pair = TextPair("p", before, after, 0.5, 0.25)
    assert pair.shared == shared
    assert pair.shared + pair.own_before == before
    assert pair.shared + pair.own_after == after
    assert pair.change == -0.25
