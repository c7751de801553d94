"""Offensive words stand here in rot13, as in the package."""

import json
import re
import unicodedata
from html import unescape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dposcope.data.masking import read_encoded
from dposcope.report.masked_text import ShownText
from helpers.pages import HOSTILE, STARRED, STRONG


def revealed(markup: str, words: list[str]) -> str:
    """What a reader sees once the switch is on."""
    swapped = re.sub(
        r'<span class="w" data-w="(\d+)">[^<]*</span>', lambda match: f"<b>{words[int(match[1])]}</b>", markup
    )
    return unescape(re.sub(r"</?(span|b)[^>]*>", "", swapped))


def seen(markup: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", markup))


def test_a_strong_word_is_starred_and_kept_aside():
    shown = ShownText()
    markup = shown.text(f"What a {STRONG}, you idiot")
    assert markup == f'What a <span class="w" data-w="0">{STARRED}</span>, you idiot'
    assert json.loads(shown.words()) == [STRONG]
    assert shown.masked == 1


def test_the_whole_word_is_swapped_not_its_stars():
    shown = ShownText()
    word = read_encoded("zbgureshpxre")
    assert seen(shown.text(f"({word}s)")) == "(motherf*ckers)"
    assert json.loads(shown.words()) == [f"{word}s"]


def test_a_word_is_listed_once_however_often_it_occurs():
    shown = ShownText()
    shown.text(f"{STRONG} {STRONG}")
    shown.token(f" {STRONG}")
    assert json.loads(shown.words()) == [STRONG]
    assert shown.masked == 3


def test_a_slur_of_two_words_is_one_place():
    shown = ShownText()
    slur = read_encoded("pnzry wbpxrl")
    markup = shown.text(f"a {slur} b")
    assert shown.masked == 1
    assert revealed(markup, json.loads(shown.words())) == f"a {slur} b"


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("a\nb", "↵"),
        ("a\tb", "⇥"),
        ("a\x00b", "␀"),
        ("a\x1bb", "␛"),
        ("a\x7fb", "U+007F"),
        ("a\u202eb", "U+202E"),
        ("a\u2066b", "U+2066"),
        ("a\u200bb", "U+200B"),
        ("a\u2028b", "U+2028"),
        ("a\ufeffb", "U+FEFF"),
        ("a\ud800b", "U+D800"),
        ("a\udce9b", "\\xe9"),  # a byte of a file name
        ("a\uffffb", "U+FFFF"),
        ("a\U000e0041b", "U+E0041"),
    ],
)
def test_what_cannot_be_seen_is_named(text, mark):
    shown = ShownText()
    assert shown.text(text) == f'a<span class="c">{mark}</span>b'
    assert shown.plain(text) == f"a{mark}b"


def test_spaces_of_a_token_are_seen_and_those_of_a_text_are_spaces():
    shown = ShownText()
    assert seen(shown.token("  the\u00a0")) == "␣␣theU+00A0"
    assert seen(shown.text("in the")) == "in the"


def test_joiners_hold_emoji_together_in_text_and_are_named_as_tokens():
    shown = ShownText()
    assert shown.text("👩\u200d👧") == "👩\u200d👧"
    assert seen(shown.token("\u200d")) == "U+200D"


def test_markup_is_left_alone_and_text_is_escaped():
    shown = ShownText()
    made = shown.text("a")
    assert shown.finalize(made) is made
    assert shown.finalize("<b>&") == "&lt;b&gt;&amp;"
    assert shown.finalize(3) == 3


def test_plain_text_masks_without_markup_and_twice_is_once():
    shown = ShownText()
    once = shown.plain(f"<{STRONG}>\n")
    assert once == f"<{STARRED}>↵"
    assert shown.plain(once) == once
    assert json.loads(shown.words()) == []


def test_words_cannot_end_the_script_that_holds_them():
    shown = ShownText()
    shown._words["</script><!--&"] = 0
    assert not re.search("[<>&]", shown.words())
    assert json.loads(shown.words()) == ["</script><!--&"]


FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"  # assigned, and shown by no font
characters = st.characters() | st.sampled_from("\n\t\u202e\ud800<>&\"'*")
pieces = st.lists(st.text(characters, max_size=8) | st.sampled_from([STRONG, STRONG.upper(), " ", *HOSTILE[:2]]))


@given(pieces.map("".join))
def test_any_text_is_inert_encodable_and_wholly_there(text):
    shown = ShownText()
    markup = shown.text(text)
    markup.encode("utf-8")
    assert set(re.findall(r"<[^>]*>", markup)) <= {'<span class="c">', "</span>"} | {
        f'<span class="w" data-w="{index}">' for index in range(len(shown._words))
    }
    assert not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in markup)
    # Swapping every masked word in gives the text again, but for the characters that were named.
    named = {"\n": "↵", "\t": "⇥", **{chr(0xDC00 + byte): f"\\x{byte:02x}" for byte in range(0x80, 0x100)}}
    expected = "".join(
        named.get(char, chr(0x2400 + ord(char)) if ord(char) < 32 else f"U+{ord(char):04X}")
        if (unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} or char in FILLERS)
        and char not in "\u200c\u200d"
        else char
        for char in text
    )
    assert revealed(markup, json.loads(shown.words())) == expected


def test_a_neuron_that_is_named_becomes_a_link_and_nothing_else_does():
    shown = ShownText()
    assert shown.linked("−v 12.345 of 0.12 <b>") == ('−v <a class="neuron" href="#12.345">12.345</a> of 0.12 &lt;b&gt;')
    assert shown.linked(f"v 1.2 {STRONG}").endswith(f'<span class="w" data-w="0">{STARRED}</span>')
    assert "<a" not in shown.linked("rev 12.345, 12.345, v 12")
