import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dposcope.errors import DposcopeError
from dposcope.evaluation.numbers import Format, Kind, between, count, exact, fact, fixed, p_value, percent, signed


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
    assert between(-0.0001, 0.2) == "0.000–0.200", "no minus is shown"


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


def test_counts_shares_and_p_values():
    assert [count(36864), count(-1), count(0.4), count(-0.4), count(12, sign=True), count(0, sign=True)] == [
        *("36,864", "−1", "0", "0", "+12", "0")
    ]
    assert [percent(0.5234), percent(-0.0123, 2), percent(-0.00001), percent(1.0, 0), percent(0.1, sign=True)] == [
        *("52.3 %", "−1.23 %", "0.0 %", "100 %", "+10.0 %")
    ]
    assert [p_value(1e-4), p_value(9.9e-5), p_value(0.25)] == ["0.0001", "< 0.0001", "0.2500"]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("text", "a|b", "a|b"),
        ("printed", "0.545*", "0.545*"),
        ("tokens", [" a", "", " ", "b "], "a, b"),
        ("fact", True, "yes"),
        ("count", 12345, "12,345"),
        ("signed count", 3, "+3"),
        ("p-value", 0.0, "< 0.0001"),
        ("fixed 3", -0.0884, "−0.088"),
        ("signed fixed 2", 0.5, "+0.50"),
        ("percent 1", 0.5234, "52.3 %"),
        ("signed percent 1", 0.5, "+50.0 %"),
        ("points 2", 0.5, "0.50 %"),
        ("ratio 2", 0.456, "0.46 ×"),
        ("degrees 1", 12.34, "12.3°"),
        ("count", None, "–"),
    ],
)
def test_formats_have_names_and_write_values(name, value, shown):
    assert Format.named(name).value(value) == shown
    assert str(Format.named(name)) == name


def test_every_kind_has_a_name():
    for kind in get_args(Kind):
        for sign in (False, True):
            made = Format(kind, 2 if str(Format(kind)).endswith(" 0") else 0, sign)
            assert Format.named(str(made)) == made


@pytest.mark.parametrize("name", ["", "words", "fixed three", "signed", "fixed -1"])
def test_other_names_are_refused(name):
    with pytest.raises(DposcopeError, match="no format is called"):
        Format.named(name)


def test_an_interval_has_the_scale_of_its_value_and_no_unit():
    assert Format("percent", 1).with_interval(0.239, 0.12, 0.361) == "23.9 % (12.0–36.1)"
    assert Format("ratio", 2).with_interval(0.48, 0.41, 0.56) == "0.48 × (0.41–0.56)"
    assert Format("points", 2).with_interval(1, -0.5, 2) == "1.00 % (−0.50 to 2.00)"


@given(st.floats(-1, 1), st.integers(0, 4), st.booleans())
def test_no_kind_ever_writes_a_zero_with_a_sign(value, digits, sign):
    for kind in ("count", "fixed", "percent", "points", "ratio", "degrees"):
        shown = Format(kind, digits, sign).value(value)
        assert "-" not in shown
        assert not re.match("[+−][0.,]+( |°|$)", shown), shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.2, "0.20"), (0.025, "0.025"), (0.005, "0.005"), (1, "1.00"), (1e-4, "0.0001"), (-0.125, "−0.125"), (0, "0.00")],
)
def test_a_number_that_was_given_is_not_rounded(value, shown):
    assert exact(value) == shown
