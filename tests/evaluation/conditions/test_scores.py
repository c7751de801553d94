"""Means, intervals and comparisons of conditions, against a second, plain way of making them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.scores import BASE, Comparison, Scores, summarise
from dposcope.evaluation.perplexity import WindowLosses
from dposcope.evaluation.statistics.intervals import Difference, Estimate
from helpers.intervals import interval
from helpers.outcomes import outcome


@pytest.fixture
def scores() -> Scores:
    draw = np.random.default_rng(1)
    base = outcome(draw.random(40), seed=1)
    return summarise(
        {BASE: base, "edit": outcome(draw.random(40) / 2, seed=2)}, protocol="strict", model="m", about={"x": [1, None]}
    )


def test_scores_read_back_whole(scores):
    import json

    stored = json.loads(json.dumps(scores.to_json()))
    assert Scores.from_json(stored) == scores
    assert list(stored) == [
        *("protocol", "model", "fingerprint", "conditions", "against_none", "further_scorers", "distinct_2"),
        *("distinct_kept", "phrases", "distinct_sampled", "about"),
    ]


def test_scores_of_another_concept_say_so_and_read_back(scores):
    """The key of the measure stays; those of toxicity read as they always did."""
    other = replace(scores, concept="rain talk")
    stored = other.to_json()
    assert stored["concept"] == "rain talk"
    assert Scores.from_json(stored) == other
    assert {name: value for name, value in stored.items() if name != "concept"} == scores.to_json()
    assert scores.concept == "toxicity"


def test_scores_without_a_ratio_read_back(scores):
    bare = replace(scores, against_none={"edit": Comparison(scores.against_none["edit"].differences, None)})
    assert Scores.from_json(bare.to_json()) == bare


def test_means_and_intervals():
    draw = np.random.default_rng(3)
    one = outcome(draw.random(30), seed=3)
    found = summarise({BASE: one}, protocol="strict", model="m").conditions[BASE]
    assert set(found) == {"toxicity", "judge", "repetition", "empty", "f1", "logppl", "harmless_logppl", "relevance"}
    for name, values in (*one.per_prompt.items(), ("f1", one.f1)):
        assert found[name].mean == pytest.approx(values.mean())
        assert (found[name].low, found[name].high) == pytest.approx(interval(values), abs=0.01)
        assert found[name].n == len(values)
    losses = one.losses
    assert found["logppl"].mean == pytest.approx(losses.nll.sum() / losses.tokens.sum())
    ends = interval(losses.nll, losses.tokens)
    assert (found["logppl"].low, found["logppl"].high) == pytest.approx(ends, abs=0.05)
    assert isinstance(found["f1"], Estimate)
    harmless = one.harmless
    assert found["harmless_logppl"].mean == pytest.approx(harmless.nll.sum() / harmless.tokens.sum())
    ends = interval(harmless.nll, harmless.tokens)
    assert (found["harmless_logppl"].low, found["harmless_logppl"].high) == pytest.approx(ends, abs=0.05)
    explained = one.relevance
    assert found["relevance"].mean == pytest.approx(explained.nats.sum() / explained.tokens.sum())


def test_what_an_edit_costs_beyond_neutral_text():
    """The rise on harmless samples and the relevance that is kept, paired by text and by prompt."""
    base, edit = outcome([0.5] * 12, seed=4), outcome([0.1] * 12, seed=10)
    found = summarise({BASE: base, "edit": edit}, protocol="strict", model="m").against_none["edit"]
    rise = found.differences["harmless_logppl"]
    difference, tokens = edit.harmless.nll - base.harmless.nll, base.harmless.tokens
    assert rise.mean == pytest.approx(difference.sum() / tokens.sum())
    assert (rise.low, rise.high) == pytest.approx(interval(difference, tokens), abs=0.03)
    kept = found.relevance_kept
    assert kept.ratio == pytest.approx(edit.relevance.nats.sum() / base.relevance.nats.sum())
    ours, theirs = (np.stack([one.relevance.nats, one.relevance.tokens]) for one in (edit, base))
    assert (kept.low, kept.high) == pytest.approx(interval(*ours, *theirs), abs=0.03)


def test_relevance_of_none_that_may_be_nothing_has_no_share():
    base, edit = outcome([0.5] * 8, seed=4), outcome([0.1] * 8, seed=9)
    bare = replace(base, relevance=replace(base.relevance, nats=base.relevance.nats - 15))
    found = summarise({BASE: bare, "edit": edit}, protocol="strict", model="m")
    assert found.against_none["edit"].relevance_kept is None
    assert "relevance" in found.conditions["edit"]


def test_phrases_and_distinct_pairs_are_of_all_greedy_texts():
    plain = ["the cat sat down", "a dog ran off", "the sun went down"]
    edited = ["I was at home", "I was out", "the cat sat down"]
    outcomes = {BASE: outcome([0.1] * 3, texts=plain), "edit": outcome([0.1] * 3, texts=edited)}
    found = summarise(outcomes, protocol="strict", model="m")
    pairs = [{pair for text in texts for pair in pairwise(text.lower().split())} for texts in (plain, edited)]
    assert found.distinct_kept == {BASE: 1.0, "edit": len(pairs[1]) / len(pairs[0])}
    assert list(found.phrases) == ["edit"]
    first = found.phrases["edit"][0]
    assert (first.words, first.share, first.base_share) == ("i was", 2 / 3, 0)
    assert first.rise.mean == pytest.approx(2 / 3)
    assert len(found.phrases["edit"]) <= 5
    assert found.to_json()["phrases"]["edit"][0]["rise"]["n"] == 3
    assert Scores.from_json(found.to_json()) == found


def test_marks_are_corrected_for_the_number_of_conditions():
    """Of twelve conditions, one differs clearly; another only if it stood alone."""
    draw = np.random.default_rng(5)
    base, noise = draw.random(60), draw.normal(0, 0.1, (12, 60))
    noise -= noise.mean(1, keepdims=True)
    rises = [-0.2, 0.028, *[0.0] * 10]
    outcomes = {BASE: outcome(base)} | {
        f"edit-{place}": outcome(base + rise + noise[place]) for place, rise in enumerate(rises)
    }
    scores = summarise(outcomes, protocol="strict", model="m")
    alone = {name for name, one in scores.against_none.items() if one.differences["toxicity"].excludes_zero}
    assert alone == {"edit-0", "edit-1"}
    assert scores.differing("toxicity") == {"edit-0"}
    assert "for the 12 conditions of a column" in scores.holm_note
    two = {name: outcomes[name] for name in (BASE, "edit-1")}
    assert summarise(two, protocol="strict", model="m").differing("toxicity") == {"edit-1"}
    assert scores.differing("never measured") == frozenset()


@pytest.mark.parametrize(
    ("judge", "third", "unshared"),
    [
        (-0.3, -0.3, set()),
        (-0.3, 0.0, {"toxicity", "judge"}),
        (-0.3, 0.3, {"toxicity", "judge", "third"}),
        (0.0, 0.0, {"toxicity"}),
    ],
)
def test_what_another_scorer_does_not_share_is_told(judge, third, unshared):
    noise = np.random.default_rng(2).normal(0, 0.02, (3, 40))
    base = outcome([0.5] * 40, judge=False, further={"judge": [0.5] * 40, "third": [0.5] * 40})
    values = {name: 0.5 + by + noise[place] for place, (name, by) in enumerate((("judge", judge), ("third", third)))}
    edit = outcome(0.2 + noise[2], judge=False, further=values)
    scores = summarise({BASE: base, "edit": edit}, protocol="strict", model="m")
    assert scores.further == ("third",)
    assert scores.scorers == ("toxicity", "judge", "third")
    assert scores.unshared("edit") == unshared
    assert scores.unshared(BASE) == set()


def test_comparisons_are_paired_prompt_by_prompt():
    """An edit that lowers every prompt by the same share is certain, however much prompts differ."""
    toxicity = np.random.default_rng(4).random(40)
    base, edit = outcome(toxicity, seed=4), outcome(toxicity - 0.1 * toxicity, seed=4)
    found = summarise({BASE: base, "edit": edit}, protocol="strict", model="m").against_none["edit"]
    assert found.differences["toxicity"].excludes_zero
    assert found.differences["toxicity"].mean == pytest.approx(-0.1 * toxicity.mean())
    assert (found.toxicity_ratio.low, found.toxicity_ratio.high) == pytest.approx((0.9, 0.9))
    unpaired = outcome((toxicity - 0.1 * toxicity)[::-1], seed=4)
    loose = summarise({BASE: base, "edit": unpaired}, protocol="strict", model="m").against_none["edit"]
    assert not loose.differences["toxicity"].excludes_zero
    assert isinstance(found.differences["logppl"], Difference)
    assert found.differences["logppl"].mean == 0


def test_a_difference_is_the_conditions_number_less_that_of_none():
    base, edit = outcome([0.2, 0.5, 0.9] * 4, seed=1), outcome([0.1, 0.6, 0.2] * 4, seed=2)
    found = summarise({BASE: base, "edit": edit}, protocol="strict", model="m").against_none["edit"].differences
    expected = {name: (edit.per_prompt[name] - base.per_prompt[name]).mean() for name in base.per_prompt}
    expected["f1"] = (edit.f1 - base.f1).mean()
    for name, ours, theirs in (
        ("logppl", edit.losses, base.losses),
        ("harmless_logppl", edit.harmless, base.harmless),
    ):
        expected[name] = (ours.nll - theirs.nll).sum() / theirs.tokens.sum()
    assert {name: one.mean for name, one in found.items()} == pytest.approx(expected)


def test_none_is_compared_with_nothing(scores):
    assert list(scores.conditions) == [BASE, "edit"]
    assert list(scores.against_none) == ["edit"]


@pytest.mark.parametrize(
    ("toxicity", "has_ratio"), [([0.0] * 40, False), ([0.9] * 2 + [0.0] * 38, False), ([0.9] * 6 + [0.01] * 34, True)]
)
def test_a_ratio_needs_a_base_with_something_in_every_resample(toxicity, has_ratio):
    base = outcome(toxicity, seed=5)
    found = summarise({BASE: base, "edit": outcome([0.0] * 40, seed=6)}, protocol="strict", model="m")
    assert (found.against_none["edit"].toxicity_ratio is not None) == has_ratio


@pytest.mark.parametrize(("hits", "prompts"), [(6, 12), (6, 40), (6, 200), (8, 80), (20, 40)])
def test_a_scorer_that_answers_yes_or_no_does_not_end_the_run(hits, prompts):
    """Exact zeros are common: an empty continuation is one. With six hits among 200, one resample in 400 has none."""
    base = outcome([1.0] * hits + [0.0] * (prompts - hits), seed=7)
    edit = outcome([1.0] * (hits // 2) + [0.0] * (prompts - hits // 2), seed=8)
    found = summarise({BASE: base, "edit": edit}, protocol="strict", model="m").against_none["edit"]
    assert found.differences["toxicity"].mean == pytest.approx(-(hits - hits // 2) / prompts)


def test_distinct_grams_are_counted_over_all_texts():
    texts = ["the cat sat", "the cat ran", "the cat sat"]
    found = summarise({BASE: outcome([0.1] * 3, texts=texts)}, protocol="strict", model="m")
    assert found.distinct_2 == {BASE: 3 / 6}


def test_log_perplexity_of_other_windows_is_not_compared():
    base, other = outcome(np.zeros(12)), outcome(np.zeros(12), seed=1)
    longer = replace(other, losses=WindowLosses(other.losses.nll, other.losses.tokens + 1))
    summarise({BASE: base, "other": other}, protocol="strict", model="m")
    with pytest.raises(DposcopeError, match="measured on other windows than that of none; measure both again"):
        summarise({BASE: base, "other": longer}, protocol="strict", model="m")
