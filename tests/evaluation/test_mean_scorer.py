"""The mean of several scorers."""

import numpy as np
import pytest

from dposcope.errors import DposcopeError
from dposcope.evaluation.mean_scorer import MeanScorer
from dposcope.evaluation.scorers import CallableScorer, scorer_digest

LETTERS = CallableScorer(lambda texts: [min(len(text), 10) / 10 for text in texts], "letters")
VOWELS = CallableScorer(lambda texts: [sum(x in "aeiou" for x in text) / len(text) for text in texts], "vowels")


def test_it_is_the_mean_of_each_text():
    texts = ["aeiou", "xyz", "a long sentence", ""]
    expected = [(a + b) / 2 for a, b in zip(LETTERS(texts), VOWELS(texts), strict=True)]
    assert MeanScorer([LETTERS, VOWELS])(texts).tolist() == expected
    assert len(set(expected)) == 4


def test_one_scorer_is_itself_and_several_are_named():
    texts = ["ab", "cde"]
    assert np.array_equal(MeanScorer([LETTERS])(texts), LETTERS(texts))
    assert MeanScorer([LETTERS, VOWELS]).name == "mean of letters and vowels"


def test_its_digest_is_of_those_that_have_one():
    class Known:
        name = "known"

        def __init__(self, digest):
            self.digest = digest

    plain = [scorer_digest(MeanScorer([Known(None)])), scorer_digest(MeanScorer([Known(None), Known(None)]))]
    assert plain == [None, None]
    assert scorer_digest(MeanScorer([Known("a")])) != scorer_digest(MeanScorer([Known("b")]))


def test_no_scorer_is_refused():
    with pytest.raises(DposcopeError, match="give one at least"):
        MeanScorer([])
