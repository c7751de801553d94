"""Negative sentiment by VADER."""

import sys

import numpy as np
import pytest

from dposcope.errors import DposcopeError
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.sentiment import sentiment_scorer

TEXTS = ["This is awful, and I hate it.", "A table stands in the room.", "What a wonderful, happy day!", "", "not good"]


def test_it_is_the_negative_part_of_the_packages_compound():
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyser = SentimentIntensityAnalyzer()
    expected = [max(0.0, -analyser.polarity_scores(text)["compound"]) for text in TEXTS]
    scores = sentiment_scorer()(TEXTS)
    np.testing.assert_array_equal(scores, expected)
    assert scores[0] > 0.5
    assert scores[1] == scores[2] == scores[3] == 0
    assert scores[4] > 0


def test_it_names_the_release():
    assert load_scorer("vader").name.startswith("VADER 3.")


def test_without_its_package_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    with pytest.raises(DposcopeError, match=r"scorer vader needs the package vaderSentiment.*dposcope\[sentiment\]"):
        sentiment_scorer()
