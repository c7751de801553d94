from importlib import resources

import pytest

from dposcope.data.masking import read_encoded
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


def test_a_word_waits_until_no_entry_can_begin_with_it():
    """The longest entry has three words."""
    stream = Stream()
    assert stream.grow(f"so then he said oh {STRONG[:2]}") == "so then he"
    assert stream.grow(f"so then he said oh {STRONG}, so") == " said"
    assert stream.grow(f"so then he said oh {STRONG}, so what now") == f" oh {STARRED},"


def test_entries_of_several_words_are_starred_in_a_stream_as_in_the_whole_text():
    """Nothing of them is given on before the whole entry is there; innocent phrases are not starred."""
    listed = resources.files("dposcope.data").joinpath("wordlist.txt").read_text("utf-8").splitlines()
    entries = [read_encoded(line) for line in listed if " " in line and not line.startswith(("#", "["))]
    assert len(entries) > 20
    starred = 0
    for entry in entries:
        text = f"then he said {entry}s to me"
        stream, given = Stream(), ""
        for end in range(len(text) + 1):
            given += stream.grow(text[:end])
            assert shown(text).startswith(given)
        assert given + stream.end(text) == shown(text)
        starred += "*" in shown(text)
    assert starred >= 5
