"""The likeliest token is the one that argmax finds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dposcope.model.generate import likeliest


def naive(rows):
    """The first of the largest; NaN is larger than all."""
    found = []
    for row in rows.tolist():
        best = 0
        for index, value in enumerate(row):
            nan = value != value
            if row[best] == row[best] and (nan or value > row[best]):
                best = index
        found.append(best)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", [1, 7, 511, 512, 513, 1024, 5000])
def test_it_is_argmax(dtype, vocabulary):
    logits = torch.randn(5, vocabulary, generator=torch.Generator().manual_seed(vocabulary)).to(dtype)
    assert likeliest(logits).tolist() == naive(logits) == logits.argmax(-1).tolist()


@given(st.lists(st.sampled_from([0.0, 1.0, -1.0, float("-inf"), float("nan")]), min_size=1, max_size=40), st.data())
def test_the_first_of_equal_ones_and_nan_above_all(pattern, data):
    """Few values, so that nearly all are tied, over several pieces."""
    row = pattern * (1200 // len(pattern))
    changed = data.draw(st.integers(0, len(row) - 1))
    row[changed] = data.draw(st.sampled_from([2.0, float("nan"), float("inf")]))
    logits = torch.tensor([row, row[::-1], [float("-inf")] * len(row)])
    assert likeliest(logits).tolist() == naive(logits)


def test_any_shape_in_front():
    logits = torch.randn(2, 3, 700, generator=torch.Generator().manual_seed(0))
    assert torch.equal(likeliest(logits), logits.argmax(-1))
    assert likeliest(logits[0, 0]).shape == ()
