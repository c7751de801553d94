"""The search for the strongest edit within a bound, on costs that are known."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dposcope.evaluation.statistics.intervals import Difference
from dposcope.jobs.strength import StrengthSearch, search_strength


def searched(cost, bound: float = 0.2, start: float = 1.0) -> StrengthSearch:
    """Search a cost that is a plain function of the strength; the interval's upper end is what counts."""

    def measured(strength: float) -> Difference:
        high = cost(strength)
        return Difference(high - 0.05, high - 0.1, high, 8)

    found = search_strength(measured, bound, start=start)
    assert 1 <= len(found.steps) <= 12
    assert found.bound == bound
    assert all(step.strength > 0 for step in found.steps)
    for step in found.steps:
        assert step.increase == measured(step.strength)
    within = [step.strength for step in found.steps if step.increase.high <= bound]
    assert found.chosen == max(within, default=0.0)
    return found


@pytest.mark.parametrize("start", [0.2, 1.0, 2.0])
@pytest.mark.parametrize(
    "cost",
    [
        lambda s: 0.08 * s**2,
        lambda s: 0.3 * s**2,
        lambda s: 5.0 * s**2,
        lambda s: 80.0 * s**2,
        lambda s: 0.01 * s**2,
        lambda s: 0.4 * s,
        lambda s: 0.05 * s,
        lambda s: 0.2 * s**4,
        lambda s: 0.02 * s**3 + 0.01 * s,
        lambda s: 0.1 * s**2 - 0.05 * s,  # negative at first: a mild edit may even help
        lambda s: 0.2 * math.sqrt(s),
        lambda s: math.expm1(s) * 0.05,
        lambda s: math.expm1(3 * s) * 0.01,
    ],
)
def test_smooth_costs_are_used_up_to_95_per_cent(cost, start):
    found = searched(cost, start=start)
    assert 0.95 * 0.2 <= cost(found.chosen) <= 0.2


@settings(max_examples=300)
@given(
    scale=st.floats(0.01, 50),
    power=st.floats(0.9, 4),
    dip=st.floats(0, 0.2),
    bound=st.floats(0.02, 1.0),
    start=st.sampled_from([0.2, 1.0, 2.0]),
)
def test_monotone_costs_are_used_up(scale, power, dip, bound, start):
    """To 95 per cent, or to a factor 2 per cent below the largest one.

    `scale · s^power − dip`, never falling. Damage that grows slower than linearly is not among them: a small edit's
    grows with its square, and the search is made for that. Where even 16 costs too little, 16 or nearly is taken."""

    def cost(s: float) -> float:
        return scale * s**power - dip

    found = searched(cost, bound, start)
    assert found.chosen == 16.0 or cost(found.chosen) <= bound
    assert found.chosen == 16.0 or cost(found.chosen) >= 0.95 * bound or cost(found.chosen / 0.98) > bound
    if cost(16.0) < 0.95 * bound:
        assert found.chosen == 16.0


@settings(max_examples=300)
@given(
    knots=st.lists(st.tuples(st.floats(0.05, 6), st.floats(0, 0.5)), min_size=1, max_size=6),
    start=st.sampled_from([0.2, 1.0, 2.0]),
)
def test_any_monotone_cost_stays_within_the_bound(knots, start):
    """Piecewise linear, with flat stretches and steep ones: never above the bound, and never twice the same place."""

    def cost(s: float) -> float:
        return sum(height * min(1.0, max(0.0, (s - place) / 0.05)) for place, height in knots)

    found = searched(cost, 0.2, start)
    assert cost(found.chosen) <= 0.2
    places = [step.strength for step in found.steps]
    assert len(set(places)) == len(places)


def test_a_flat_cost_ends_at_the_largest_strength():
    found = searched(lambda _s: 0.01)
    assert found.chosen == 16.0
    assert len(found.steps) <= 6


@pytest.mark.parametrize("cost", [lambda _s: -0.3, lambda _s: 0.0, lambda s: -s])
def test_a_cost_that_never_rises_ends_at_the_largest_strength(cost):
    assert searched(cost).chosen == 16.0


def test_a_steep_cost_is_found_from_far_above():
    found = searched(lambda s: 0.2 * (s / 0.004) ** 2)
    assert 0.95 * 0.2 <= 0.2 * (found.chosen / 0.004) ** 2 <= 0.2


def test_a_cliff_is_not_stepped_over():
    """Nothing costs anything until it costs everything: 95 per cent of the bound is out of reach, the cliff is not."""
    found = searched(lambda s: 0.0 if s < 0.7 else 5.0)
    assert found.chosen < 0.7


def test_a_jump_at_the_bound_is_closed_in_on_and_left():
    """Rounded weights: no factor costs between 0.16 and 0.21, and seven more trials would not find one."""
    found = searched(lambda s: 0.16 * s**2 if s < 1.02 else 0.21 * s**2)
    assert 0.98 * 1.02 <= found.chosen < 1.02
    assert len(found.steps) <= 6


def test_where_any_change_costs_too_much_nothing_is_chosen():
    found = searched(lambda _s: 1.0)
    assert found.chosen == 0.0
    assert len(found.steps) == 12


@settings(max_examples=100)
@given(seed=st.integers(0, 10_000), noise=st.floats(0, 0.05))
def test_noise_never_lets_a_trial_through_that_costs_too_much(seed, noise):
    import random

    draw = random.Random(seed)
    costs: dict[float, float] = {}

    def cost(s: float) -> float:
        return costs.setdefault(s, 0.1 * s**2 + draw.uniform(-noise, noise))

    found = searched(cost)
    assert found.chosen == 0.0 or costs[found.chosen] <= 0.2


def test_it_ends_as_soon_as_it_is_close_enough():
    asked: list[float] = []

    def cost(s: float) -> Difference:
        asked.append(s)
        return Difference(0.0, 0.0, 0.195, 8)

    assert search_strength(cost, 0.2).chosen == 1.0
    assert asked == [1.0]


def test_nothing_is_tried_above_a_factor_that_is_enough():
    """It is asked within the bound alone, and only where a larger factor would be tried."""
    asked: list[float] = []

    def enough(factor: float) -> bool:
        asked.append(factor)
        return factor >= 1.5

    found = search_strength(lambda s: Difference(0.0, 0.0, 0.002 * s**2, 8), 0.2, enough=enough)
    assert [step.strength for step in found.steps] == asked == [1.0, 2.0]
    assert found.chosen == 2.0
    asked.clear()
    close = search_strength(lambda s: Difference(0.0, 0.0, 0.195 * s**2, 8), 0.2, start=2.0, enough=enough)
    assert 0.95 * 0.2 <= 0.195 * close.chosen**2 <= 0.2
    assert asked == [], "2 is beyond the bound, and the next one is close enough"


def test_the_upper_end_counts_not_the_mean():
    """A mean within the bound is not enough."""
    found = search_strength(lambda s: Difference(0.05 * s, 0.0, 0.25 * s, 8), 0.2)
    assert 0.19 <= 0.25 * found.chosen <= 0.2


@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_a_model_that_breaks_down_costs_too_much(broken):
    """A trial so strong that the loss is no number is a trial beyond the bound."""
    found = search_strength(lambda s: Difference(0.0, 0.0, 0.3 * s**2 if s < 0.9 else broken, 8), 0.2, start=2.0)
    assert 0.95 * 0.2 <= 0.3 * found.chosen**2 <= 0.2
