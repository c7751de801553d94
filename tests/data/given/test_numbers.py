"""Numbers as callers give them."""

import numpy as np
import pytest
import torch

from dposcope.data.given.numbers import number, seed_of, whole
from dposcope.errors import DposcopeError


@pytest.mark.parametrize("kind", [int, np.int64, np.uint8, np.int16, torch.tensor, lambda one: torch.tensor([one])])
def test_whole_numbers_of_any_kind(kind):
    assert whole("n", kind(3)) == seed_of(kind(3)) == 3
    assert type(whole("n", kind(3))) is int


@pytest.mark.parametrize("kind", [float, np.float32, np.float64, torch.tensor, lambda one: torch.tensor([one])])
def test_numbers_of_any_kind(kind):
    assert number("x", kind(0.5)) == 0.5
    assert type(number("x", kind(0.5))) is float


@pytest.mark.parametrize(
    "value",
    [True, False, np.True_, torch.tensor(True), None, "3", 3.0, np.float64(3), [3], torch.ones(2, dtype=torch.long)],
)
def test_what_is_no_whole_number(value):
    with pytest.raises(DposcopeError, match=r"^n .* is no whole number; give one, such as 1"):
        whole("n", value)


@pytest.mark.parametrize("value", [True, False, np.True_, torch.tensor(True), None, "3", [3], torch.ones(2), 1j])
def test_what_is_no_number(value):
    with pytest.raises(DposcopeError, match=r"^x .* is no number; give one, such as 1"):
        number("x", value)


@pytest.mark.parametrize("value", [-1, 1 << 32])
def test_a_seed_is_one_of_numpy(value):
    with pytest.raises(DposcopeError, match=f"seed {value} is outside 0 … 2³² − 1"):
        seed_of(value)
    assert seed_of((1 << 32) - 1) == 4_294_967_295
