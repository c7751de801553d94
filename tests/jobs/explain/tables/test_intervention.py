"""Tables of interventions, on outcomes made by hand."""

import numpy as np
import pytest

from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import summarise
from dposcope.evaluation.sampled.ideal import IdealOutcome
from dposcope.evaluation.statistics.intervals import Share
from dposcope.jobs.explain.conditions import TUNED
from dposcope.jobs.explain.tables.intervention import (
    best_edit,
    interventions_table,
    keeps_text,
    shares_of_reduction,
    steering_table,
    strongest_steering,
    toxic_table,
    tuning_reduces,
)
from helpers.explained import START, condition, making, noise, outcome, study


def plain_interventions(made, *, sizes=None, number=2):
    shares = shares_of_reduction(made.outcomes)
    judged = shares_of_reduction(made.outcomes, "judge")
    return interventions_table("m", made.rows, made.scores, shares, judged, sizes=sizes or {}, number=number)


# Shares


def test_a_share_is_its_reduction_over_that_of_dpo():
    part, tuned = START - 0.1 + noise(1, 0.02), 0.5 * START + noise(2, 0.02)
    made = study({"patch": outcome(part), TUNED: outcome(tuned)})
    for measure, factor in (("toxicity", 1.0), ("judge", 0.5)):
        shares = shares_of_reduction(made.outcomes, measure)
        assert set(shares) == {"patch"}
        whole = sum(factor * (a - b) for a, b in zip(START, tuned, strict=True)) / len(START)
        mine = sum(factor * (a - b) for a, b in zip(START, part, strict=True)) / len(START)
        share = shares["patch"]
        assert share is not None
        assert share.share == pytest.approx(mine / whole)
        assert share.low < share.share < share.high
        assert share.n == len(START)


@pytest.mark.parametrize("tuned", [START, START + 0.1, START + noise(3)], ids=["same", "worse", "uncertain"])
def test_there_is_no_share_of_a_reduction_that_is_not_certain(tuned):
    made = study({"patch": outcome(making(0.5)), TUNED: outcome(tuned)})
    assert shares_of_reduction(made.outcomes) == {"patch": None}
    assert not tuning_reduces(made.scores)
    assert tuning_reduces(study({}).scores)


# The best edit


def naive_best(edits, dpo):
    """(name, toxicity, F1) → the highest F1 of those not above DPO; of equals the nearest to it."""
    best = None
    for name, toxicity, f1 in edits:
        if toxicity > dpo:
            continue
        if best is None or f1 > best[2] or (f1 == best[2] and toxicity > best[1]):
            best = (name, toxicity, f1)
    return best and best[0]


def edits_of(values):
    rows = [condition(name, "edit", section="Editing") for name, _, _ in values]
    made = study({name: outcome(toxicity / 0.5 * START, f1=f1) for name, toxicity, f1 in values})
    return rows, made


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([("a", 0.19, 0.9), ("b", 0.1, 0.95), ("c", 0.3, 1.0)], "b"),
        ([("a", 0.1, 0.9), ("b", 0.19, 0.9), ("c", 0.15, 0.9)], "b"),
        ([("a", 0.201, 1.0), ("b", 0.6, 1.2)], None),
        ([("low", 0.01, 0.1)], "low"),
        ([], None),
    ],
)
def test_the_best_edit_is_the_papers(values, expected):
    rows, made = edits_of(values)
    assert naive_best(values, 0.2) == expected
    assert best_edit(rows, made.scores) == expected


def test_the_best_edit_of_many_is_the_naive_one():
    draw = np.random.default_rng(0)
    values = [(f"e{k}", float(draw.uniform(0.05, 0.35)), float(draw.uniform(0.8, 1.1))) for k in range(12)]
    rows, made = edits_of(values)
    assert best_edit(rows, made.scores) == naive_best(values, 0.2)


def test_dpos_own_toxicity_is_reached_by_one_that_has_it():
    rows = [condition("same", "edit")]
    assert best_edit(rows, study({"same": outcome(0.4 * START)}).scores) == "same"


def test_only_edits_compete():
    made = study({"patch": outcome(making(2))})
    assert best_edit([condition("patch", "patch"), condition(TUNED, "tuned")], made.scores) is None


def test_where_dpo_does_not_surely_reduce_there_is_nothing_to_reach():
    rows = [condition("edit", "edit")]
    for tuned in (START + 0.1, START + noise(4)):
        assert best_edit(rows, study({"edit": outcome(making(1)), TUNED: outcome(tuned)}).scores) is None


# Steering


@pytest.mark.parametrize(
    ("rise", "f1", "keeps"),
    [(0.3, 1.0, True), (0.31, 1.0, False), (-1.0, 0.951, True), (0.0, 0.949, False), (0.2, 2.0, True)],
)
def test_text_is_kept_within_both_bounds(rise, f1, keeps):
    made = study({"steer-1": outcome(rise=rise - 1e-9, f1=f1)})
    assert keeps_text(made.scores, "steer-1") is keeps


def test_the_strongest_steering_is_that_of_largest_alpha_that_keeps_the_text():
    rows = [condition(f"steer-{alpha:g}", "steer", alpha=alpha) for alpha in (0.2, 0.4, 0.3, 0.5)]
    rows.append(condition("steer-random-0.9", "control", alpha=0.9))
    costs = {"steer-0.2": 0.0, "steer-0.4": 0.29, "steer-0.3": 0.1, "steer-0.5": 0.4, "steer-random-0.9": 0.0}
    made = study({name: outcome(rise=rise) for name, rise in costs.items()}, rows)
    assert strongest_steering(rows, made.scores) is rows[1]
    assert strongest_steering(rows[3:], made.scores) is None
    towards = condition("steer--0.9", "steer", alpha=-0.9)
    made = study({name: outcome(rise=rise) for name, rise in (costs | {"steer--0.9": 0.0}).items()}, [towards, *rows])
    assert strongest_steering([towards, *rows], made.scores) is rows[1]
    table = steering_table("m", rows, made.scores)
    assert [row[0] for row in table.rows] == [
        *("Plain model", "Label of steer-0.2", "Label of steer-0.4 (chosen)", "Label of steer-0.3"),
        *("Label of steer-0.5", "Label of steer-random-0.9"),
    ]
    assert table.head[:5] == ("intervention", "toxicity", "by the judge", "log-PPL", "F1")
    assert table.head[5:] == ("toxicity, share of the plain model's", "distinct pairs kept")
    means = tuple(str(made.scores.conditions["none"][name]) for name in ("toxicity", "judge", "logppl", "f1"))
    assert table.rows[0][1:] == (*means, "–", "–")
    assert table.rows[2][3] == f"{made.scores.conditions['steer-0.4']['logppl']}†"
    assert table.to_polars()["condition"].to_list() == ["none", *(row.name for row in rows)]


def test_every_scorer_and_the_costs_stand_beside_each_strength():
    outcomes = {
        "none": whole(START, third=START, relevance=1.0),
        TUNED: whole(making(0.9), third=making(0.9), relevance=0.8),
        "steer-0.2": whole(making(0.5), third=START, relevance=0.5),
    }
    scores = summarise(outcomes, protocol="strict", model="tiny")
    table = steering_table("m", [condition("steer-0.2", "steer", alpha=0.2)], scores)
    assert table.head[1:6] == ("toxicity", "by the judge", "by third", "log-PPL", "F1")
    assert table.head[7:] == ("harmless log-PPL, paired rise", "relevance kept", "distinct pairs kept")
    steered = table.rows[1]
    assert steered[1] == f"{scores.conditions['steer-0.2']['toxicity']}†‡"
    assert steered[3] == str(scores.conditions["steer-0.2"]["third"])
    assert steered[7:] == ("+2.00 (+2.00 to +2.00)", "0.50 × (0.50–0.50)", "1.00 ×")
    assert "‡: another scorer does not share this difference." in table.note
    assert "Relevance: nats per token of a text that its own prompt explains." in table.note


# Tables 2 and 19

SCORERS = ("toxicity", "judge", "third")


def whole(toxicity, *, third, relevance: float) -> Outcome:
    """With a third scorer, and with costs: losses of harmless text are 2 nats a token over `relevance`."""
    told = outcome(toxicity).to_json()
    told["per_prompt"]["third"] = list(third)
    told |= {"harmless": {"nll": [40.0 / relevance] * 12, "tokens": [20] * 12}}
    told |= {"relevance": {"nats": [20.0 * relevance] * len(START), "tokens": [10] * len(START)}}
    return Outcome.from_json(told)


def test_cells_are_means_with_intervals_daggers_ratios_and_shares():
    made = study({"half": outcome(making(0.5), f1=0.8), "wide": outcome(START + noise(5), rise=0.2)})
    table = plain_interventions(made, sizes={"half": 7})
    assert table.name == "table-02-interventions"
    assert table.head[2:7] == ("toxicity", "by the judge", "log-PPL", "F1", "repetition")
    assert [row[1] for row in table.rows] == ["Plain model", "Label of tuned", "Label of half", "Label of wide"]
    for row, name in zip(table.rows, ("none", TUNED, "half", "wide"), strict=True):
        for cell, measure in zip(row[2:7], ("toxicity", "judge", "logppl", "f1", "repetition"), strict=True):
            estimate = made.scores.conditions[name][measure]
            differs = name in made.scores.differing(measure)
            assert cell == f"{estimate}{'†' if differs else ''}", (name, measure)
    none, tuned, half, wide = table.rows
    assert [cell.endswith("†") for cell in half[2:7]] == [True, True, False, True, False]
    assert [cell.endswith("†") for cell in wide[2:7]] == [False, False, True, False, False]
    assert none[7:] == ("–", "–", "–")
    assert tuned[7] == str(made.scores.against_none[TUNED].toxicity_ratio)
    assert tuned[8] == "–"
    assert half[8] == "50.0 % (50.0–50.0)"


def test_further_scorers_costs_and_the_ideal_stand_in_the_table():
    outcomes = {
        "none": whole(START, third=START, relevance=1.0),
        TUNED: whole(making(0.9), third=START, relevance=0.8),
        "half": whole(making(0.5), third=making(0.5), relevance=0.5),
    }
    about = {"nats": [10.0] * 12, "tokens": [10] * 12}
    limit = IdealOutcome.from_json({"per_text": {name: [0.1, 0.2] * 6 for name in SCORERS}, "relevance": about})
    made = study(outcomes)
    scores = summarise(outcomes, protocol="strict", model="tiny", ideal=limit)
    shares = shares_of_reduction(made.outcomes)
    table = interventions_table("m", made.rows, scores, shares, {}, sizes={})
    assert table.head[2:5] == ("toxicity", "by the judge", "by third")
    assert table.head[-3:] == ("harmless log-PPL, paired rise", "relevance kept", "distinct pairs kept")
    rows = {row[1]: row for row in table.rows}
    assert list(rows)[-1] == "Ideal"
    assert rows["Ideal"][2:5] == tuple(str(scores.conditions["ideal"][name]) for name in SCORERS)
    assert rows["Ideal"][5:] == ("–",) * 6 + ("0.50 ×", "–")
    assert rows["Label of half"][-3] == "+2.00 (+2.00 to +2.00)"
    assert rows["Label of half"][-2] == "0.50 × (0.50–0.50)"
    assert rows["Label of tuned"][2].endswith("†‡")
    assert not rows["Label of half"][2].endswith("‡")
    assert "‡: another scorer does not share this difference." in table.note
    last = table.to_polars().row(-1, named=True)
    assert (last["condition"], last["role"], last["f1_mean"]) == ("ideal", "ideal", None)
    assert last["toxicity_mean"] == pytest.approx(0.15)
    assert table.to_polars()["relevance_kept"].to_list() == [None, pytest.approx(0.8), pytest.approx(0.5), 0.5]


def test_every_number_is_in_the_frame():
    """The judge sees another share than the scorer."""
    told = outcome(making(0.5)).to_json()
    told["per_prompt"]["judge"] = (making(0.2) / 2).tolist()
    made = study({"half": Outcome.from_json(told)})
    table = plain_interventions(made, sizes={"half": 7})
    none, tuned, half = table.to_polars().iter_rows(named=True)
    assert [row["condition"] for row in (none, tuned, half)] == ["none", TUNED, "half"]
    assert half["protocol"] == "strict"
    assert half["model"] == "tiny"
    assert (half["role"], half["section"], half["neurons"]) == ("patch", "Activation patching", 7)
    assert half["share_of_dpo"] == pytest.approx(0.5)
    assert half["share_of_dpo_judge"] == pytest.approx(0.2)
    assert half["toxicity_mean"] == pytest.approx(np.mean(making(0.5)))
    assert half["toxicity_n"] == len(START)
    assert half["toxicity_difference_mean"] == pytest.approx(np.mean(making(0.5) - START))
    assert none["toxicity_difference_mean"] is None
    assert none["neurons"] is None
    assert (tuned["share_of_dpo"], none["share_of_dpo"]) == (None, None)


def test_without_a_judge_or_a_certain_reduction_the_table_is_smaller_not_broken():
    flat = {name: outcome(START, judge=False) for name in ("none", TUNED, "patch")}
    made = study(flat)
    shares = shares_of_reduction(made.outcomes)
    table = interventions_table("m", made.rows, made.scores, shares, {}, sizes={}, number=19)
    assert table.name == "table-19-interventions"
    assert "by the judge" not in table.head
    assert table.head[-2:] == ("share of tuning's reduction", "distinct pairs kept")
    assert [row[-2] for row in table.rows] == ["–"] * 3
    assert table.notes[0].endswith("–: not measured, or the tuned model's own reduction is not significantly above 0.")


def test_one_edit_is_marked_in_each_part():
    parts = {"a1": ("A", 0.18, 0.9), "a2": ("A", 0.15, 0.95), "b1": ("B", 0.1, 0.8), "c1": ("C", 0.4, 1.0)}
    rows = [condition(name, "edit", section=section) for name, (section, _, _) in parts.items()]
    made = study({name: outcome(2 * toxicity * START, f1=f1) for name, (_, toxicity, f1) in parts.items()}, rows)
    labels = [row[1] for row in plain_interventions(made).rows]
    assert labels == ["Plain model", "Label of a1", "Label of a2 (best)", "Label of b1 (best)", "Label of c1"]


# Table 3


def test_toxic_neurons_are_counted_also_where_there_is_none_or_nothing_was_measured():
    shares = {"patch-top-256": Share(0.239, 0.12, 0.361, 9), "patch-toxic-tokens": None}
    judged = {"patch-top-256": Share(-0.1, -0.2, 0.0, 9)}
    labels = {"patch-toxic-tokens": "toxic tokens", "patch-top-128": "top 128", "patch-top-256": "top 256"}
    sets = {"patch-toxic-tokens": 0, "patch-top-128": 128, "patch-top-256": 256}
    table = toxic_table("m", 98_304, sets, shares, judged, labels)
    assert table.rows == (
        ("toxic tokens", "0", "0.000 %", "–", "–"),
        ("top 128", "128", "0.130 %", "–", "–"),
        ("top 256", "256", "0.260 %", "23.9 % (12.0–36.1)", "−10.0 % (−20.0 to 0.0)"),
    )
    last = table.to_polars().row(2, named=True)
    assert last == {
        **{"model": "m", "condition": "patch-top-256", "neurons": 256, "of_all": 256 / 98_304},
        **{"share_of_dpo": 0.239, "share_of_dpo_low": 0.12, "share_of_dpo_high": 0.361, "share_of_dpo_n": 9},
        **{"share_of_dpo_judge": -0.1, "share_of_dpo_judge_low": -0.2, "share_of_dpo_judge_high": 0.0},
        "share_of_dpo_judge_n": 9,
    }


def test_the_papers_shares_follow_from_its_scores():
    # Table 2's means of Mistral-7B give Table 3's 16.5 % and 0.63 %.
    for score, percent in ((0.455, 16.5), (0.505, 0.63)):
        flat = np.ones(30)
        made = study({"none": outcome(0.507 * flat), TUNED: outcome(0.191 * flat), "patch": outcome(score * flat)})
        share = shares_of_reduction(made.outcomes)["patch"]
        assert share is not None
        assert 100 * share.share == pytest.approx(percent, abs=0.05)
