import pytest

from dposcope.evaluation.numbers import between, fact, fixed, signed


@pytest.mark.parametrize(
    ("value", "shown"), [(0.1314, "0.131"), (-0.0884, "−0.088"), (0.0, "0.000"), (-0.0004, "0.000"), (12.0, "12.000")]
)
def test_fixed_places_with_a_real_minus_and_no_negative_zero(value, shown):
    assert fixed(value) == shown


def test_places_can_be_chosen():
    assert fixed(0.456, 2) == "0.46"
    assert signed(0.456, 1) == "+0.5"


@pytest.mark.parametrize(("value", "shown"), [(0.17, "+0.170"), (-0.17, "−0.170"), (0.0, "0.000"), (0.0002, "0.000")])
def test_what_rounds_to_zero_has_no_sign(value, shown):
    assert signed(value) == shown


def test_a_dash_never_stands_beside_a_minus():
    assert between(0.1, 0.2) == "0.100–0.200"
    assert between(-0.1, 0.2) == "−0.100 to 0.200"
    assert between(-0.1, 0.2, 2, sign=True) == "−0.10 to +0.20"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "none"),
        (True, "yes"),
        (False, "no"),
        (36864, "36,864"),
        (-1, "−1"),
        (0.912345, "0.9123"),
        (37012.31, "37,012"),
        (-1e-7, "−1e−07"),
        ([1, 2.5, None], "1, 2.5, none"),
        ((), "none"),
        ("as it is", "as it is"),
    ],
)
def test_facts_of_every_kind(value, shown):
    assert fact(value) == shown
