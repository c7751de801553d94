"""Scores that say nothing of their texts: the true ones in distribution, the same whenever they are asked for."""

import numpy as np
import pytest

from dposcope.errors import DposcopeError
from dposcope.evaluation.scorers import CallableScorer
from dposcope.evaluation.shuffled_scorer import DrawnScorer, PermutedScorer

TEXTS = [f"text {number}" for number in range(40)]


def length(texts):
    return np.array([int(text.split()[1]) / 100 for text in texts])


TRUE = CallableScorer(length, "length")


def test_a_permutation_holds_the_true_scores_at_other_texts():
    given = PermutedScorer(TRUE, seed=0)(TEXTS)
    assert sorted(given) == sorted(length(TEXTS))
    assert sum(given == length(TEXTS)) < 5
    assert abs(np.corrcoef(given, length(TEXTS))[0, 1]) < 0.4


def test_a_permutation_is_seeded():
    assert (PermutedScorer(TRUE, seed=3)(TEXTS) == PermutedScorer(TRUE, seed=3)(TEXTS)).all()
    assert (PermutedScorer(TRUE, seed=3)(TEXTS) != PermutedScorer(TRUE, seed=4)(TEXTS)).any()


def test_a_text_that_comes_twice_has_one_score_and_a_blank_one_keeps_0():
    given = PermutedScorer(TRUE, seed=0)([*TEXTS, " ", *TEXTS])
    assert (given[:40] == given[41:]).all()
    assert given[40] == 0
    assert sorted(given[:40]) == sorted(length(TEXTS))


def test_a_draw_depends_on_text_and_seed_alone():
    scorer = DrawnScorer(length(TEXTS).tolist(), of="length", seed=0)
    given = scorer(TEXTS)
    assert (scorer(TEXTS[::-1])[::-1] == given).all()
    assert scorer(["text 7"])[0] == given[7]
    assert set(given) <= set(length(TEXTS))
    assert (DrawnScorer(length(TEXTS).tolist(), of="length", seed=1)(TEXTS) != given).any()
    assert scorer([" "])[0] == 0


def test_a_draw_is_even_and_knows_nothing_of_the_text():
    scorer = DrawnScorer([0.0, 0.25, 1.0], of="length", seed=0)
    given = scorer([f"text {number}" for number in range(3000)])
    assert [abs((given == score).mean() - 1 / 3) < 0.05 for score in (0.0, 0.25, 1.0)] == [True] * 3
    assert abs(np.corrcoef(given, np.arange(3000))[0, 1]) < 0.06


def test_names_and_digests_tell_them_from_the_true_scorer():
    drawn = DrawnScorer([0.1, 0.2], of="length", seed=0)
    assert drawn.name == PermutedScorer(TRUE, seed=0).name == "shuffled scores of length"
    assert PermutedScorer(TRUE, seed=0).digest == TRUE.digest
    others = [DrawnScorer([0.1, 0.3], of="length", seed=0), DrawnScorer([0.1, 0.2], of="length", seed=1)]
    assert len({one.digest for one in [drawn, *others]}) == 3


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(DposcopeError, match="give at least one"):
        DrawnScorer([], of="length", seed=0)
