"""The strength at which a kind of edit costs what it may, from the costs of others."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dposcope.interventions.gains import Gains
from dposcope.search.at_bound import at_the_bound, where_texts_pass
from dposcope.search.family import MOST_ABLATION, NO_GAINS, Family, Point, Source
from dposcope.search.search import search
from dposcope.search.trials import TextBound, Trial, Written

FAMILY = Family({"learned": Source.line(Gains(torch.tensor([[2.0]])), start=1.0, most=1.5)}, torch.ones(2), 2)
LIKELY = Point("learned", 1.0)
TEXT_BOUND = TextBound(Written(0.3, 0.2, 0.4, 0.1, 0.5, 0.15))


def trial(point: Point, share: float, number: int = 0) -> Trial:
    """One that costs a share of the bound."""
    written = Written(0.3, 0.2, 0.4, 0.1, 0.5, 0.1) if share <= 1 else None
    return Trial(number, point, share * 0.1, 0.0, None, share - 1, written, 0.0)


@given(power=st.floats(1.1, 3.9), at_one=st.floats(0.7, 8))
def test_costs_that_follow_a_power_meet_the_aim(power, at_one):
    found = at_the_bound(LIKELY, [trial(LIKELY.scaled(s), at_one * s**power) for s in (1.0, 0.5)], FAMILY, TEXT_BOUND)
    wanted = (0.9 / at_one) ** (1 / power)  # at_one · s^power = 0.9
    if min(abs(wanted - 1), abs(wanted / 0.5 - 1)) < 0.021:
        return  # tried already
    if 0.25 < wanted < 1.5:
        assert found.strength == pytest.approx(wanted)
        assert at_one * found.strength**power == pytest.approx(0.9)
    assert (found.source, found.tilt, found.ablate) == ("learned", 0.0, 0.0)


def test_one_trial_alone_is_taken_as_a_square():
    found = at_the_bound(Point(NO_GAINS, ablate=1.0), [trial(Point(NO_GAINS, ablate=1.0), 0.5)], FAMILY, TEXT_BOUND)
    assert found == Point(NO_GAINS, ablate=pytest.approx(math.sqrt(0.9 / 0.5)))


@pytest.mark.parametrize(
    ("likely", "share", "strength"), [(LIKELY, 1e-6, 1.5), (LIKELY, 1e9, 0.25), (Point(NO_GAINS, ablate=1.0), 1e-6, 0)]
)
def test_it_stays_within_what_is_worth_a_trial(likely, share, strength):
    found = at_the_bound(likely, [trial(likely, share)], FAMILY, TEXT_BOUND)
    assert found.strength == pytest.approx(strength)
    assert found.ablate == (MOST_ABLATION if likely.source == NO_GAINS else 0)


@pytest.mark.parametrize(
    "tried",
    [
        [],
        [trial(LIKELY, math.inf)],
        [trial(LIKELY, -0.2)],
        [trial(Point("learned", 0.5, tilt=0.1), 0.5), trial(Point("learned", 0.5, ablate=0.5), 0.5)],
        [trial(Point(NO_GAINS, ablate=1.0), 0.5)],
        [trial(LIKELY, 0.91)],
    ],
    ids=["none", "overflow", "cheaper than nothing", "others beside", "another kind", "tried already"],
)
def test_where_there_is_nothing_to_tell_it_says_nothing(tried):
    assert at_the_bound(LIKELY, tried, FAMILY, TEXT_BOUND) is None


def test_where_nothing_may_be_lost_it_says_nothing():
    """Every distinct word pair must be left: the edit would be none."""
    assert at_the_bound(LIKELY, [says(1.0, 0.1, 0.4)], FAMILY, TextBound(TEXT_BOUND.plain, 1.0)) is None


def says(strength: float, repetition: float, distinct: float = 0.5) -> Trial:
    """A cheap one whose texts say more or less."""
    return Trial(
        0, Point("learned", strength), 0, 0, None, -0.9, Written(0.3, 0.2, 0.4, repetition, distinct, 1.0), 0.0
    )


@pytest.mark.parametrize(
    ("tried", "strength"),
    [
        # Repetition from 0.1 of the plain model; 0.15 is allowed: halfway to 0.2, and 0.9 of that way.
        ([says(1.0, 0.4), says(0.5, 0.2)], 0.9 * 0.25),
        # 0.12 at half strength says enough; 0.15 lies three eighths of the way from there to 0.2 at full strength.
        ([says(1.0, 0.2), says(0.5, 0.12)], 0.5 + 0.9 * 0.375 * 0.5),
        # Distinct word pairs from 0.5; 0.25 is allowed: five sixths of the way to 0.2, and repetition comes later.
        ([says(0.5, 0.152, 0.2)], 0.5 * 0.9 * 5 / 6),
        # Of the two the first to be crossed.
        ([says(0.5, 0.2, 0.2)], 0.5 * 0.9 * 0.5),
        # A stronger one that says enough by chance does not count.
        ([says(1.0, 0.1), says(0.5, 0.2)], 0.9 * 0.25),
    ],
)
def test_what_says_too_little_is_tried_where_it_says_enough(tried, strength):
    found = at_the_bound(LIKELY, tried, FAMILY, TEXT_BOUND)
    assert found == Point("learned", pytest.approx(strength))


def test_cost_and_texts_both_bind():
    cheap, dear = says(1.0, 0.2), Trial(0, Point("learned", 1.0), 0, 0, None, 3.0, None, 0.0)
    assert at_the_bound(LIKELY, [dear], FAMILY, TEXT_BOUND).strength == pytest.approx(math.sqrt(0.9 / 4))
    assert at_the_bound(LIKELY, [says(1.0, 0.1)], FAMILY, TEXT_BOUND).strength == 1.5
    assert at_the_bound(LIKELY, [cheap], FAMILY, TEXT_BOUND).strength == pytest.approx(0.45)


def test_a_search_tries_every_kind_at_the_bound_after_its_warm_starts(tmp_path):
    """As where learned gains cost too much at full strength: the one written at half must not be all there is."""

    def costs(point: Point, number: int) -> Trial:
        share = 1.6 * point.strength**2.5 + 0.2 * point.ablate**2
        return trial(point, share, number)

    warm = len(FAMILY.warm_starts())
    found = search(costs, FAMILY, folder=tmp_path, trials=warm + 3, text_bound=TEXT_BOUND)
    gains, ablation = found[warm : warm + 2]
    assert not found[0].within_bounds
    assert gains.within_bounds
    assert 1.6 * gains.point.strength**2.5 == pytest.approx(0.9)
    assert (gains.point.tilt, gains.point.ablate) == (0, 0)
    assert ablation.point.source == NO_GAINS
    assert ablation.point.ablate == pytest.approx(MOST_ABLATION)  # sqrt(0.9 / 0.2) would be more


def test_where_texts_pass_is_asked_only_of_texts_that_do_not():
    assert where_texts_pass(LIKELY, [says(0.5, 0.2)], TEXT_BOUND) == Point("learned", pytest.approx(0.9 * 0.25))
    assert where_texts_pass(LIKELY, [says(0.5, 0.1), trial(LIKELY, 3.0)], TEXT_BOUND) is None
    assert where_texts_pass(LIKELY, [], TEXT_BOUND) is None
    assert where_texts_pass(LIKELY, [says(1.0, 0.1, 0.4)], TextBound(TEXT_BOUND.plain, 1.0)) is None


def test_a_search_tries_a_kind_whose_texts_fail_at_its_bound_where_they_pass(tmp_path):
    """As where gains learn to refuse: at their bound on cost every text does, and nothing weaker may be left out."""
    text_bound = replace(TEXT_BOUND, least_relevance=0.7, plain=replace(TEXT_BOUND.plain, relevance=1, relevance_low=1))

    def refuses(point: Point, number: int) -> Trial:
        found = trial(point, 8 * point.strength**2.5 + 0.2 * point.ablate**2, number)
        relevance = 1 - 0.9 * point.strength
        return found if found.written is None else replace(found, written=replace(found.written, relevance=relevance))

    warm = len(FAMILY.warm_starts())
    found = search(refuses, FAMILY, folder=tmp_path, trials=warm + 4, text_bound=text_bound)
    strong, ablation, weak = found[warm : warm + 3]
    assert ablation.point.source == NO_GAINS
    assert not text_bound.allows(strong.written)
    assert (weak.point.tilt, weak.point.ablate) == (0, 0)
    assert weak.point.strength == pytest.approx(0.9 * 0.3 / 0.9)
    assert text_bound.allows(weak.written)
    assert text_bound.allows(ablation.written)
    assert found[warm + 3].point != ablation.point  # of the ablation no text failed, so Optuna has its turn
