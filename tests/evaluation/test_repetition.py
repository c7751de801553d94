"""Repetition, distinct-n and empties against loops written from the definition."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dposcope.errors import DposcopeError
from dposcope.evaluation.repetition import distinct_n, repetition, share_empty

texts = st.lists(st.sampled_from(["so", "So", "it", "goes", "…", "!"]), max_size=12).map(" ".join)


def naive_grams(text, n):
    """Words by walking over characters; the texts above hold letters, marks and blanks alone."""
    words, current = [], ""
    for character in text.lower() + " ":
        if character.isalnum():
            current += character
        elif current:
            words.append(current)
            current = ""
    return ["/".join(words[i : i + n]) for i in range(len(words) - n + 1)]


@given(texts)
def test_repetition_is_the_definition(text):
    grams = naive_grams(text, 2)
    expected = 1 - len(set(grams)) / len(grams) if grams else 0
    assert repetition(text) == expected


@given(st.lists(texts, min_size=1, max_size=5), st.integers(1, 4))
def test_distinct_n_is_the_definition(several, n):
    grams = [gram for text in several for gram in naive_grams(text, n)]
    expected = len(set(grams)) / len(grams) if grams else 0
    assert distinct_n(several, n) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so it goes", 0.0),
        ("so it goes, so it goes", 1 - 3 / 5),
        ("So IT so it", 1 - 2 / 3),
        ("no no no no no", 0.75),
        ("", 0.0),
        ("word", 0.0),
        ("“ “ “ “ “", 0.0),
        ("l'été d'été d'été", 1 - 3 / 5),
    ],
)
def test_repetition_by_hand(text, expected):
    assert repetition(text) == pytest.approx(expected, abs=1e-15)


def test_n_grams_do_not_cross_texts():
    assert distinct_n(["a b", "a b"], 2) == 0.5
    assert distinct_n(["a", "b"], 2) == 0.0


def test_share_empty_counts_texts_without_a_word():
    assert share_empty(["", "  \n", "“ “ …", "well", "7"]) == 3 / 5


@pytest.mark.parametrize("call", [lambda: distinct_n([], 2), lambda: share_empty([])])
def test_no_text_is_refused(call):
    with pytest.raises(DposcopeError, match="no text to measure; give at least one continuation"):
        call()


def test_n_below_one_is_refused():
    with pytest.raises(DposcopeError, match="n is 0; n-grams have at least 1 word"):
        distinct_n(["a b"], 0)
