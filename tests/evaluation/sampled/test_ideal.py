"""How many texts the ideal and relevance are read of, and where they stand."""

import pytest

from dposcope.evaluation.sampled.ideal import evenly, texts_read


@pytest.mark.parametrize(
    ("prompts", "texts"), [(1, 1), (24, 24), (40, 24), (48, 24), (80, 40), (128, 64), (399, 64), (10_000, 64)]
)
def test_half_of_the_prompts_are_read_within_bounds(prompts, texts):
    assert texts_read(prompts) == texts


def test_places_are_spread_over_all():
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(10, 4) == [0, 2, 5, 7]
    assert len(set(evenly(399, 64))) == 64
