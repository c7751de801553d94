"""The table of conditions."""

from dataclasses import replace

import numpy as np
import pytest

from dposcope.data.masking import read_encoded
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import Comparison, Scores, summarise
from dposcope.evaluation.sampled.ideal import IdealOutcome
from dposcope.jobs.measuring.measure import scores_table


def outcome(toxicity, *, judge: bool = True, seed: int = 0) -> Outcome:
    draw, n = np.random.default_rng(seed), len(toxicity)
    names = ["repetition", "empty", *(["judge"] if judge else [])]
    return Outcome.from_json(
        {
            "continuations": ["a b c"] * n,
            "per_prompt": {"toxicity": list(toxicity)} | {name: draw.random(n).tolist() for name in names},
            "f1": draw.random(12).tolist(),
            "window_nll": [300.0, 310.0, 290.0] * 4,
            "window_tokens": [100] * 12,
        }
    )


@pytest.fixture
def scores() -> Scores:
    base = np.random.default_rng(1).random(40) / 2 + 0.3
    return summarise(
        {"none": outcome(base), "half": outcome(base / 2), "same": outcome(base), "a|b": outcome(base * 1.2)},
        protocol="strict",
        model="org/model",
    )


def test_one_line_per_condition_under_one_head(scores):
    table = scores_table(scores)
    assert table.head == (
        *("condition", "toxicity", "by the judge", "log-PPL", "F1", "repetition", "empty"),
        *("toxicity, share of the plain model's", "log-PPL, paired rise", "distinct pairs kept"),
    )
    assert [row[0] for row in table.rows] == ["none", "half", "same", "a|b"]
    assert "| a\\|b | " in table.markdown()


def test_another_concept_has_its_own_name(scores):
    table = scores_table(replace(scores, concept="rain|talk"))
    assert (table.head[1], table.head[7]) == ("rain|talk", "rain|talk, share of the plain model's")
    assert "toxic" not in table.markdown()
    assert "items: rain|talk 40," in table.note


def test_cells_are_means_with_intervals(scores):
    for row in scores_table(scores).rows:
        for place, measure in enumerate(("toxicity", "judge", "logppl", "f1", "repetition", "empty"), 1):
            assert row[place].rstrip("*‡") == str(scores.conditions[row[0]][measure])
        if row[0] == "none":
            assert row[7:] == ("–", "–", "–")
        else:
            assert row[7] == str(scores.against_none[row[0]].toxicity_ratio)
            assert row[8] == str(scores.against_none[row[0]].differences["logppl"])


def test_a_star_marks_only_what_excludes_zero(scores):
    stars = {row[0]: ["*" in cell for cell in row[1:7]] for row in scores_table(scores).rows}
    assert stars["half"] == [True, False, False, False, False, False]
    assert stars["a|b"][0] is True
    assert not any(stars["same"])
    assert not any(stars["none"])


def test_what_was_not_measured_has_no_column():
    base = np.linspace(0.2, 0.9, 12)
    bare = summarise(
        {"none": outcome(base, judge=False), "x": outcome(base, judge=False)}, protocol="strict", model="m"
    )
    head = scores_table(bare).head
    assert "by the judge" not in head
    assert "toxicity" in head


def test_without_a_ratio_there_is_a_dash(scores):
    against = {name: Comparison(one.differences, None) for name, one in scores.against_none.items()}
    assert [row[7] for row in scores_table(replace(scores, against_none=against)).rows] == ["–"] * 4


def test_title_and_note_say_model_protocol_and_counts(scores):
    table = scores_table(scores)
    assert "org/model" in table.title
    assert "strict protocol" in table.title
    for words in ("toxicity 40", "log-PPL 12", "F1 12", "bootstrap", "*: differs"):
        assert words in table.note


# Beyond one scorer and neutral text


def full(toxicity, *, third, texts, seed: int = 0) -> Outcome:
    stored = outcome(toxicity, seed=seed).to_json()
    stored["continuations"] = texts
    stored["per_prompt"]["third"] = list(third)
    n = len(texts)
    stored["harmless"] = {"nll": [40.0 + seed] * 12, "tokens": [20] * 12}
    stored["relevance"] = {"nats": [20.0 - seed] * n, "tokens": [10] * n}
    return Outcome.from_json(stored)


def ideal() -> IdealOutcome:
    scores = {"toxicity": [0.1, 0.2] * 6, "judge": [0.3, 0.3] * 6, "third": [0.5, 0.4] * 6}
    relevance = {"nats": [10.0, 20.0] * 6, "tokens": [10] * 12}
    return IdealOutcome.from_json({"per_text": scores, "relevance": relevance})


@pytest.fixture
def whole() -> Scores:
    base = np.random.default_rng(1).random(40) / 2 + 0.3
    plain, phrase = ["the cat sat"] * 40, read_encoded("fuvg")
    edited = [f"{phrase} I said"] * 30 + ["the cat sat"] * 10
    return summarise(
        {
            "none": full(base, third=base, texts=plain),
            "edit": full(base / 2, third=base, texts=edited, seed=2),
        },
        protocol="strict",
        model="org/model",
        ideal=ideal(),
    )


def test_costs_stand_beside_the_scorers(whole):
    table = scores_table(whole)
    assert table.head[2:4] == ("by the judge", "by third")
    assert table.head[-4:] == (
        *("harmless log-PPL, paired rise", "relevance kept", "distinct pairs kept", "phrase that rose most"),
    )
    rows = {row[0]: row[-4:] for row in table.rows}
    assert rows["none"] == ("–", "–", "–", "–")
    assert rows["edit"][:3] == ("+0.10 (+0.10 to +0.10)", "0.90 × (0.90–0.90)", "2.00 ×")
    assert rows["edit"][3] == f"“{read_encoded('fuvg')} i said” in 75.0 % of texts, 0.0 % of the plain model's"
    assert "sh\\*t i said" in table.markdown()


def test_the_ideal_is_the_last_row_and_has_dashes_where_nothing_was_measured(whole):
    table = scores_table(whole)
    (last,) = [row for row in table.rows if row[0] == "ideal"]
    assert table.rows[-1] == last
    assert last[1:4] == tuple(str(whole.conditions["ideal"][name]) for name in ("toxicity", "judge", "third"))
    assert last[4:] == ("–",) * 6 + ("–", "0.75 ×", "–", "–")


def test_a_dagger_marks_what_another_scorer_does_not_share(whole):
    (edit,) = [row for row in scores_table(whole).rows if row[0] == "edit"]
    assert edit[1].endswith("*‡")
    assert not edit[3].endswith("‡")
    assert "‡: another scorer does not share this difference." in scores_table(whole).note
    alone = replace(whole, further=(), against_none={})
    assert "‡" not in scores_table(alone).markdown()


def test_without_a_condition_no_mark_is_explained(scores):
    alone = summarise({"none": outcome(np.full(12, 0.3))}, protocol="strict", model="m")
    assert "Holm" not in " ".join(scores_table(alone).notes)
    assert "for the 3 conditions of a column" in " ".join(scores_table(scores).notes)
