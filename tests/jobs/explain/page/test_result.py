"""The first screen: the finding in words and numbers, from results made by hand."""

from dataclasses import replace

import pytest

from dposcope.jobs.explain.conditions import TUNED
from dposcope.jobs.explain.page.result import four_findings, headline, interval_chart
from dposcope.jobs.explain.patches import FOUR_GROUPS, RANDOM_BY_BLOCK
from dposcope.jobs.explain.report import summary
from helpers.explained import START, condition, making, measured, outcome
from helpers.results import results


def made(four: float, random: float, *, tuned=0.4 * START, rise: float = 0.0):
    rows = [
        condition(TUNED, "tuned", section="Baselines"),
        condition(FOUR_GROUPS),
        condition(RANDOM_BY_BLOCK, "control"),
    ]
    found = measured(
        {
            TUNED: outcome(tuned, rise=rise),
            FOUR_GROUPS: outcome(making(four)),
            RANDOM_BY_BLOCK: outcome(making(random)),
        },
        rows,
    )
    whole = results()
    return type(whole)(
        whole.lm, whole.explanation, rows, found.outcomes, found.scores, {}, None, whole.instruments
    )  # fmt: skip


def test_the_headline_says_effect_cost_and_what_carries_it():
    assert headline(made(0.9, 0.1, rise=0.2)) == (
        "Tuning lowered toxicity from 0.50 to 0.20; text got harder to predict by 0.20 nats per token. "
        "The four neuron groups carry 90 % of the reduction; as many random neurons carry 10 %."
    )


def test_a_control_that_does_as_much_is_said():
    assert headline(made(0.9, 0.9)).endswith(
        "carry 90 % of the reduction; as many random neurons carry 90 %, and the groups are not shown to carry more."
    )
    carrier = four_findings(made(0.9, 0.9))[-1]
    assert (carrier.status, carrier.reading) == ("open", "not shown to exceed the control")


def test_a_share_whose_interval_holds_zero_is_not_claimed():
    found = made(0.02, 0.0)
    nothing = {name: replace(share, low=-0.01) for name, share in found.shares.items() if share is not None}
    vars(found)["shares"] = nothing  # the cached value
    assert headline(found).endswith(
        f". The four neuron groups are not shown to carry a part of the reduction: {nothing[FOUR_GROUPS]}."
    )


def test_an_effect_that_is_not_shown_is_not_claimed():
    said = headline(made(0.9, 0.1, tuned=START))
    assert said.startswith("Tuning is not shown to change toxicity: 0.50 before, 0.50 after;")
    assert "carry" not in said


def doubted(found, measure: str):
    """The results with a sign-flip test that does not agree with the interval."""
    against = found.scores.against_none
    differences = against[TUNED].differences
    assert differences[measure].excludes_zero
    tuned = replace(against[TUNED], differences=differences | {measure: replace(differences[measure], p_sign=0.32)})
    return replace(found, scores=replace(found.scores, against_none=against | {TUNED: tuned}))


def test_what_one_of_two_tests_shows_is_not_claimed():
    """Neither the fall, nor who carries it."""
    found = doubted(made(0.9, 0.1, rise=0.2), "toxicity")
    assert headline(found) == (
        "Tuning is not shown to change toxicity: 0.50 before, 0.20 after; text got harder to predict by 0.20 nats per "
        "token."
    )
    tiles = four_findings(found)
    assert [one.name for one in tiles] == ["Toxicity", "Independent judge", "Cost, log-perplexity"]
    assert (tiles[0].status, tiles[0].reading) == (
        "open",
        "not shown to differ: the sign-flip test has p\u00a0=\u00a00.320",
    )
    assert not any("share of tuning's reduction" in line for line in summary(found))
    assert any("share of tuning's reduction" in line for line in summary(made(0.9, 0.1)))


def test_a_cost_that_one_of_two_tests_shows_is_none():
    found = doubted(made(0.9, 0.1, rise=0.2), "logppl")
    assert "; text is not shown to be harder or easier to predict." in headline(found)
    cost = four_findings(found)[2]
    assert (cost.status, cost.reading) == ("open", "no cost is shown")


@pytest.mark.parametrize(("rise", "status"), [(0.2, "bad"), (0.0, "open"), (-0.2, "open")])
def test_a_cost_is_never_good(rise, status):
    cost = next(one for one in four_findings(made(0.9, 0.1, rise=rise)) if one.name.startswith("Cost"))
    assert cost.status == status


def test_there_are_four_tiles_and_one_chart():
    found = made(0.9, 0.1)
    assert [one.name for one in four_findings(found)] == [
        "Toxicity", "Independent judge", "Cost, log-perplexity", "Four groups carry"
    ]  # fmt: skip
    chart = interval_chart(found)
    assert "Random neurons 0.47" in chart.svg
    assert "Tuned 0.2" in chart.svg


def test_of_a_model_that_predicts_no_text_only_that_is_said():
    found = made(0.9, 0.1)
    found = replace(found, scores=replace(found.scores, vocabulary=20))
    assert headline(found) == found.scores.no_verdict
    # The terminal says it after the costs.
    assert not any("predicts no text" in line or "claims" in line for line in summary(found))
