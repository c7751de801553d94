"""The value that all scorers are: what it checks and remembers, and what is made of several."""

import numpy as np
import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.evaluation.scorer import Scorer, drawn_scores, mean_of

TEXTS = [f"text {number}" for number in range(40)]


def by_length(texts):
    return [min(len(text) / 100, 1.0) for text in texts]


def by_number(texts):
    return np.array([int(text.split()[1]) / 100 for text in texts])


LENGTH = Scorer("length", "1", by_length)
VOWELS = Scorer("vowels", "2", lambda texts: [sum(x in "aeiou" for x in text) / len(text) for text in texts])


def numbers() -> Scorer:
    return Scorer("number", "3", by_number)


def test_scores_are_the_functions_and_a_blank_text_has_0():
    scores = LENGTH(["abc", " ", "abcde", "", "\n\t"])
    assert scores.dtype == np.float64
    assert scores.tolist() == [0.03, 0.0, 0.05, 0.0, 0.0]
    assert LENGTH([]).shape == (0,)


def test_each_different_text_is_asked_about_once_and_the_order_kept():
    asked = []

    def function(texts):
        asked.append(list(texts))
        return by_length(texts)

    scorer = Scorer("length", "1", function)
    assert scorer(["bb", "a", " ", "bb"]).tolist() == [0.02, 0.01, 0.0, 0.02]
    assert scorer(["ccc", "a", "", "bb"]).tolist() == [0.03, 0.01, 0.0, 0.02]
    assert scorer(["bb", "ccc"]).tolist() == [0.02, 0.03]
    assert asked == [["bb", "a"], ["ccc"]]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda texts: [0.5], r"scorer mine gave shape \(1,\) for 2 texts; return one number per text"),
        (lambda texts: [[0.5]] * len(texts), r"gave shape \(2, 1\) for 2 texts"),
        (lambda texts: [0.5, 1.5], r"gave a score outside \[0, 1\]; rescale its answers"),
        (lambda texts: [-0.1, 0.5], "outside"),
        (lambda texts: [float("nan"), 0.5], "outside"),
        (lambda texts: ["0.5", "0.5"], "scorer mine gave something other than numbers; return one number per text"),
        (lambda texts: [None, 0.5], "something other than numbers"),
        (lambda texts: [0.5j, 0.5], "something other than numbers"),
        (lambda texts: (0.5 for _ in texts), "something other than numbers"),
        (lambda texts: None, "something other than numbers"),
        (lambda texts: [[0.5], 0.5], r"scorer mine failed \(ValueError: .*\); mend it, --debug shows where"),
        (lambda texts: {}["a"], r"scorer mine failed \(KeyError: 'a'\); mend it, --debug shows where"),
        (lambda texts: torch.ones(2, requires_grad=True) / 2, r"failed \(RuntimeError: Can't call numpy"),
        (lambda: [0.5], r"failed \(TypeError: .*takes 0 positional arguments"),
    ],
)
def test_a_functions_answers_are_checked(function, message):
    with pytest.raises(DposcopeError, match=message):
        Scorer("mine", "", function)(["a", "b"])


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("can't allocate memory"), DposcopeError("a; b")])
def test_too_little_memory_is_no_fault_of_the_function(error):
    def function(_texts):
        raise error

    with pytest.raises(type(error)) as told:
        Scorer("mine", "", function)(["a"])
    assert told.value is error


def test_one_text_instead_of_a_list_is_refused():
    with pytest.raises(
        DposcopeError, match="texts is one text, and a list of texts belongs here; write it in brackets"
    ):
        LENGTH("abc")


# The mean of several


def test_the_mean_is_of_each_text():
    texts = ["aeiou", "xyz", "a long sentence", ""]
    expected = [(a + b) / 2 for a, b in zip(LENGTH(texts), VOWELS(texts), strict=True)]
    assert mean_of([LENGTH, VOWELS])(texts).tolist() == expected
    assert len(set(expected)) == 4


def test_one_scorer_is_itself_and_several_are_named():
    texts = ["ab", "cde"]
    assert np.array_equal(mean_of([LENGTH])(texts), LENGTH(texts))
    assert mean_of([LENGTH, VOWELS]).name == "mean of length and vowels"


def test_the_digest_of_a_mean_is_of_all():
    other = Scorer("length", "9", by_length)
    assert len({mean_of(some).digest for some in ([LENGTH], [LENGTH, VOWELS], [other, VOWELS])}) == 3


def test_a_mean_of_none_is_refused():
    with pytest.raises(DposcopeError, match="give at least one"):
        mean_of([])


# Scores that say nothing of their texts: the true ones in distribution


def test_shuffled_scores_are_the_true_ones_at_other_texts():
    given = numbers().shuffled(0)(TEXTS)
    assert sorted(given) == sorted(by_number(TEXTS))
    assert sum(given == by_number(TEXTS)) < 5
    assert abs(np.corrcoef(given, by_number(TEXTS))[0, 1]) < 0.4


def test_a_shuffle_is_seeded():
    assert (numbers().shuffled(3)(TEXTS) == numbers().shuffled(3)(TEXTS)).all()
    assert (numbers().shuffled(3)(TEXTS) != numbers().shuffled(4)(TEXTS)).any()


def test_a_text_that_comes_twice_has_one_score_and_a_blank_one_keeps_0():
    scorer = numbers().shuffled(0)
    given = scorer([*TEXTS, " ", *TEXTS])
    assert (given[:40] == given[41:]).all()
    assert given[40] == 0
    assert sorted(given[:40]) == sorted(by_number(TEXTS))
    assert scorer(TEXTS[:3]).tolist() == given[:3].tolist()


def test_a_draw_depends_on_text_and_seed_alone():
    pool = by_number(TEXTS).tolist()
    given = drawn_scores(pool, of="number", seed=0)(TEXTS)
    assert (drawn_scores(pool, of="number", seed=0)(TEXTS[::-1])[::-1] == given).all()
    assert drawn_scores(pool, of="number", seed=0)(["text 7"])[0] == given[7]
    assert set(given) <= set(pool)
    assert (drawn_scores(pool, of="number", seed=1)(TEXTS) != given).any()
    assert drawn_scores(pool, of="number", seed=0)([" "])[0] == 0


def test_a_draw_is_even_and_knows_nothing_of_the_text():
    given = drawn_scores([0.0, 0.25, 1.0], of="number", seed=0)([f"text {number}" for number in range(3000)])
    assert [abs((given == score).mean() - 1 / 3) < 0.05 for score in (0.0, 0.25, 1.0)] == [True] * 3
    assert abs(np.corrcoef(given, np.arange(3000))[0, 1]) < 0.06


def test_names_and_digests_tell_controls_from_the_true_scorer():
    true, drawn = numbers(), drawn_scores([0.1, 0.2], of="number", seed=0)
    assert drawn.name == true.shuffled(0).name == "shuffled scores of number"
    others = [drawn_scores([0.1, 0.3], of="number", seed=0), drawn_scores([0.1, 0.2], of="number", seed=1)]
    assert len({one.digest for one in [true, true.shuffled(0), true.shuffled(1), drawn, *others]}) == 6


def test_nothing_to_draw_from_is_refused():
    with pytest.raises(DposcopeError, match="give at least one"):
        drawn_scores([], of="number", seed=0)
