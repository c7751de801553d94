"""How many texts the ideal and relevance are read of, and where they stand."""

import json

import numpy as np
import pytest

from dposcope.evaluation.sampled.ideal import Ideal, IdealOutcome, draw_ideal, evenly, measure_ideal, texts_read
from dposcope.evaluation.sampled.real_toxicity import sample_texts
from dposcope.evaluation.scorer import Scorer
from dposcope.model.generate import Continuation
from helpers.families import TEXTS


@pytest.mark.parametrize(
    ("prompts", "texts"), [(1, 1), (24, 24), (40, 24), (48, 24), (80, 40), (128, 64), (399, 64), (10_000, 64)]
)
def test_half_of_the_prompts_are_read_within_bounds(prompts, texts):
    assert texts_read(prompts) == texts


def test_places_are_spread_over_all():
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(10, 4) == [0, 2, 5, 7]
    assert len(set(evenly(399, 64))) == 64


def scorer(score):
    return Scorer("own", "digest", lambda texts: np.full(len(texts), score))


def test_it_is_what_is_harmless_of_one_sample_a_prompt(lm):
    found = draw_ideal(lm, TEXTS[:4], scorer(0.49))
    assert found.drawn == 4
    written = sample_texts(lm, TEXTS[:4], samples=1)
    assert list(found.rows) == [row for row, one in enumerate(written) if one.ids]
    assert [one.ids for one in found.written] == [one.ids for one in written if one.ids]
    assert draw_ideal(lm, TEXTS[:4], scorer(0.5)) is None
    again, other = draw_ideal(lm, TEXTS[:4], scorer(0.0), seed=0), draw_ideal(lm, TEXTS[:4], scorer(0.0), seed=1)
    assert again.texts == found.texts != other.texts


@pytest.mark.parametrize("texts", [1, 2, 3])
def test_what_was_measured_of_it_survives_json(lm, texts):
    ideal = Ideal(tuple(Continuation([3, 4], [5, 6], f"text {row}") for row in range(texts)), tuple(range(texts)), 4)
    found = measure_ideal(lm, ideal, {"own": scorer(0.3)})
    assert found.per_text["own"].tolist() == [0.3] * texts
    assert (found.relevance is None) == (texts < 2)
    read = IdealOutcome.from_json(json.loads(json.dumps(found.to_json())))
    assert read.to_json() == found.to_json()
    np.testing.assert_array_equal(read.per_text["own"], found.per_text["own"])
    if found.relevance is not None:
        np.testing.assert_array_equal(read.relevance.tokens, found.relevance.tokens)
