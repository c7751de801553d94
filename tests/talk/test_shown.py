import pytest

from dposcope.talk.shown import Stream, shown
from helpers.pages import HOSTILE, STARRED, STRONG


def test_words_are_starred_unless_raw_and_lines_stay():
    assert shown(f"{STRONG}\nyou stupid man") == f"{STARRED}\nyou stupid man"
    assert shown(STRONG, raw=True) == STRONG


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_acts(text):
    for raw in (False, True):
        told = shown(text, raw=raw)
        assert all(char.isprintable() or char == "\n" for char in told)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("text", [f"a {STRONG}! and {STRONG}er\nstill\u202e more", f"{STRONG}", "", " ", *HOSTILE])
def test_a_stream_gives_whole_words_and_in_the_end_everything(text, raw):
    stream, given = Stream(raw=raw), ""
    for end in range(len(text) + 1):
        given += stream.grow(text[:end])
        assert shown(text, raw=raw).startswith(given)
    assert given + stream.end(text) == shown(text, raw=raw)


def test_half_a_word_waits():
    stream = Stream()
    assert stream.grow(f"oh {STRONG[:2]}") == "oh"
    assert stream.grow(f"oh {STRONG}, so") == f" {STARRED},"
