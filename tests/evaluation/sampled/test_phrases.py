"""Phrases that rose, against a count by hand and a slow count of every phrase."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dposcope.errors import DposcopeError
from dposcope.evaluation.sampled.phrases import distinct_pairs, risen_phrases

WORDS = st.lists(st.sampled_from(["i", "was", "so", "the", "sea"]), max_size=7).map(" ".join)


def share_naively(phrase: str, texts: list[str]) -> float:
    """The share of texts in which the words stand in a row."""
    bare = [f" {' '.join(re.findall(r'[a-z]+', text.lower()))} " for text in texts]
    return sum(f" {phrase} " in text for text in bare) / len(texts)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=6))
def test_shares_and_order_are_those_of_a_slow_count(pairs):
    texts, base = [one for one, _ in pairs], [other for _, other in pairs]
    every = {
        " ".join(words)
        for text in texts
        for length in (2, 3, 4)
        for words in zip(*(text.split()[start:] for start in range(length)), strict=False)
    }
    rises = {phrase: share_naively(phrase, texts) - share_naively(phrase, base) for phrase in every}
    found = risen_phrases(texts, base, most=1000)
    for one in found:
        assert (one.share, one.base_share) == pytest.approx(
            (share_naively(one.words, texts), share_naively(one.words, base))
        )
        assert one.rise.mean == pytest.approx(rises[one.words])
        assert one.rise.low <= one.rise.mean <= one.rise.high
    assert [one.rise.mean for one in found] == sorted((one.rise.mean for one in found), reverse=True)
    told = {one.words for one in found}
    for phrase, rise in rises.items():
        longer = any(f" {phrase} " in f" {one.words} " and one.rise.mean == pytest.approx(rise) for one in found)
        assert (phrase in told or longer) == (rise > 1e-12)


def test_a_favourite_beginning_is_first_and_named_once():
    texts = ["I remember when I was in school", "I remember when, I was in", "I remember: when I was in love", "Rain."]
    base = ["The old man", "I was in town", "He said so", "Rain."]
    first, *others = risen_phrases(texts, base)
    assert (first.words, first.share, first.base_share, first.rise.mean) == ("i remember when i", 0.75, 0.0, 0.75)
    assert "i remember" not in [one.words for one in others]
    assert first.rise.n == 4


def test_a_part_of_a_longer_phrase_is_not_named_wherever_it_stands():
    (first, *others) = risen_phrases(["so the sea was"], ["x"])
    assert first.words == "so the sea was"
    assert others == []


def test_the_list_is_as_long_as_is_wished_and_empty_where_nothing_rose():
    assert len(risen_phrases(["a b c d e f"], ["x"], most=2)) == 2
    assert risen_phrases(["the sea"], ["the sea"]) == []


@pytest.mark.parametrize(("texts", "base"), [([], []), (["a b"], []), (["a"], ["a", "b"])])
def test_texts_that_do_not_belong_together_are_refused(texts, base):
    with pytest.raises(DposcopeError, match="give one of each per prompt"):
        risen_phrases(texts, base)


@given(st.lists(WORDS, max_size=5))
def test_distinct_pairs_never_cross_texts(texts):
    pairs = {pair for text in texts for pair in itertools.pairwise(text.split())}
    assert distinct_pairs(texts) == len(pairs)
