"""F1 against a naive count, and what each protocol compares."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dposcope.evaluation.overlap import reference_pair, strict_pair, token_f1

ids = st.lists(st.integers(0, 6), max_size=25)
SPECIAL = frozenset({0, 1})


def naive_f1(predicted, gold):
    """Cross each gold token off once when the prediction names it."""
    predicted = [token for token in predicted if token not in (0, 1)]
    left = [token for token in gold if token not in (0, 1)]
    total = len(left)
    hits = 0
    for token in predicted:
        if token in left:
            left.remove(token)
            hits += 1
    if hits == 0:
        return 0.0
    precision, recall = hits / len(predicted), hits / total
    return 2 * precision * recall / (precision + recall)


@given(ids, ids)
def test_f1_is_the_naive_count(predicted, gold):
    f1 = token_f1(predicted, gold, special_ids=SPECIAL)
    assert f1 == pytest.approx(naive_f1(predicted, gold), abs=1e-15)
    assert f1 == token_f1(gold, predicted, special_ids=SPECIAL)
    assert f1 == token_f1(predicted[::-1], gold, special_ids=SPECIAL)


@pytest.mark.parametrize(
    ("predicted", "gold", "expected"),
    [
        ([5, 6, 7], [5, 6, 7], 1.0),
        ([5, 5, 5, 5], [5], 0.4),
        ([5, 6], [7, 8], 0.0),
        ([], [5], 0.0),
        ([5], [], 0.0),
        ([], [], 0.0),
        ([0, 1], [0, 1], 0.0),
        ([0, 5, 1, 1], [5, 1], 1.0),
    ],
)
def test_f1_by_hand(predicted, gold, expected):
    assert token_f1(predicted, gold, special_ids=SPECIAL) == pytest.approx(expected)


def test_strict_compares_twenty_tokens_of_each():
    pair = strict_pair(range(30), range(100, 130))
    assert pair.predicted == tuple(range(20))
    assert pair.gold == tuple(range(100, 120))
    assert strict_pair([1], [2, 3]) == strict_pair((1,), (2, 3))


def test_reference_adds_the_prompt_and_cuts_the_gold_at_52():
    pair = reference_pair(range(32), range(50, 70), range(100, 200))
    assert pair.predicted == (*range(32), *range(50, 70))
    assert pair.gold == tuple(range(100, 152))
