"""The table, the frame and the figures of an interchange, from outcomes made by hand."""

import numpy as np
import pytest
import torch

from dposcope.evaluation.conditions.scores import summarise
from dposcope.interventions.paired.interchange import Parts
from dposcope.interventions.paired.mediation import Mediation
from dposcope.jobs.explain.interchange.carriers import FRACTIONS, RANKINGS, Carriers, CurvePoint, Rankings
from dposcope.jobs.explain.interchange.sets import MEASURED, InterchangeSet
from dposcope.jobs.explain.interchange.tables import (
    Interchanged,
    against_frozen,
    carriers_curve,
    interchange_frame,
    interchange_table,
    mediation_table,
    share_of,
)
from dposcope.neurons.sets import NeuronSet
from helpers.explained import START, noise, outcome

SOME = Parts(NeuronSet.all(2, 3))
SETS = [
    InterchangeSet("TP", "TP↓", SOME, patch="patch-TP"),
    InterchangeSet("random", "Random, as many", SOME, control=True, patch="patch-random"),
    InterchangeSet("mlp", "all MLPs", Parts(mlps=frozenset({0}))),
    InterchangeSet("reverse-TP", "Reverse: TP↓", SOME, reverse=True),
]


@pytest.fixture(scope="module")
def outcomes():
    return {
        "none": outcome(),
        "tuned": outcome(START - 0.2),
        "patch-TP": outcome(START - 0.19 + noise(1, 0.01), rise=4.8),
        "interchange-TP": outcome(START - 0.1 + noise(2, 0.01), rise=0.01),
        "interchange-random": outcome(START + noise(3, 0.01)),
        "interchange-mlp": outcome(START - 0.18),
        "interchange-reverse-TP": outcome(START - 0.05),
    }


def scores_of(outcomes):
    return summarise(outcomes, protocol="strict", model="m")


def naive_share(outcomes, name, scorer):
    base, part, tuned = (np.mean(outcomes[one].per_prompt[scorer]) for one in ("none", name, "tuned"))
    return (base - part) / (base - tuned)


def test_shares_are_those_of_the_reduction(outcomes):
    for name in ("interchange-TP", "interchange-mlp", "patch-TP"):
        assert share_of(outcomes, name, "toxicity").share == pytest.approx(naive_share(outcomes, name, "toxicity"))
        assert share_of(outcomes, name, "judge").share == pytest.approx(naive_share(outcomes, name, "judge"))
    back = share_of(outcomes, "interchange-reverse-TP", "toxicity", reverse=True)
    # Tuned: −0.2. With the base's values: −0.05, so three quarters are undone.
    assert back.share == pytest.approx(0.75)
    assert back.low <= back.share <= back.high
    flat = {**outcomes, "tuned": outcome()}
    assert share_of(flat, "interchange-TP", "toxicity") is None


def test_the_frame_has_a_row_a_set_and_scorer(outcomes):
    frame = interchange_frame(Interchanged(SETS, None), outcomes, scores_of(outcomes))
    assert frame.shape[0] == 2 * len(SETS)
    assert {"set", "scorer", "share", "low", "high", "logppl"} <= set(frame.columns)
    lines = {(one["set"], one["scorer"]): one for one in frame.iter_rows(named=True)}
    assert lines["TP", "judge"]["share"] == pytest.approx(naive_share(outcomes, "interchange-TP", "judge"))
    assert lines["TP", "toxicity"]["logppl"] == pytest.approx(0.01)
    assert lines["mlp", "toxicity"]["neurons"] is None
    assert lines["TP", "toxicity"]["neurons"] == 6
    assert lines["reverse-TP", "toxicity"]["reverse"]
    assert lines["random", "toxicity"]["control"]


def test_the_table_has_both_ways_side_by_side(outcomes):
    table = interchange_table("m", Interchanged(SETS, None), outcomes, scores_of(outcomes), neurons=24)
    lines = {one["set"]: one for one in table.frame.iter_rows(named=True)}
    assert lines["TP"]["frozen"] == pytest.approx(naive_share(outcomes, "patch-TP", "toxicity"))
    assert lines["TP"]["live_toxicity"] == pytest.approx(naive_share(outcomes, "interchange-TP", "toxicity"))
    assert lines["TP"]["frozen_rise"] == pytest.approx(4.8)
    assert lines["TP"]["of_all"] == pytest.approx(0.25)
    assert lines["random"]["frozen"] is None, "its patch was not measured"
    assert "+4.800" in table.markdown()


def test_the_figure_shows_sets_that_were_measured_both_ways(outcomes):
    figure = against_frozen(Interchanged(SETS, None), outcomes)
    dots = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    expected = [100 * naive_share(outcomes, name, "toxicity") for name in ("patch-TP", "interchange-TP")]
    assert dots == pytest.approx(expected)
    assert against_frozen(Interchanged(SETS[2:], None), outcomes) is None


def test_the_curve_has_a_line_a_ranking():
    points = [CurvePoint(name, fraction, 3, fraction) for name in RANKINGS for fraction in FRACTIONS]
    tensor = torch.zeros(2, 3)
    rankings = Rankings(tensor, tensor, 0, NeuronSet.all(2, 3))
    figure = carriers_curve(Carriers(rankings, points, Mediation(tensor, tensor, tensor), (3, 4)))
    lines = {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}
    assert set(lines) == set(RANKINGS.values())
    for line in lines.values():
        assert line.get_xdata() == pytest.approx([100 * fraction for fraction in FRACTIONS])
        assert line.get_ydata() == pytest.approx([100 * fraction for fraction in FRACTIONS])


def test_mediation_is_told_of_all_of_groups_and_of_blocks():
    own, before = torch.tensor([[1.0, 0.0], [2.0, 0.0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    change = torch.tensor([[4.0, 0.0], [4.0, 0.0]])
    carriers = Carriers(Rankings(-change, change, 0, NeuronSet.all(2, 2)), [], Mediation(own, before, change), (1, 1))
    mask = torch.zeros(2, 2, dtype=torch.bool)
    mask[1] = True
    still = torch.zeros(2, 2, dtype=torch.bool)
    still[0, 1] = True
    table = mediation_table("m", carriers, {"TP↓": NeuronSet(mask), "AN↓": NeuronSet(still)})
    lines = {name: numbers for name, *numbers in table.frame.iter_rows()}
    assert lines["all neurons"] == pytest.approx((3 / 8, 2 / 8, 3 / 8))
    assert lines["TP↓"] == lines["block 1"] == pytest.approx((0.5, 0.25, 0.25))
    assert lines["AN↓"] == [None, None, None]


def test_mediation_of_a_model_that_tuning_left_as_it_was_has_no_shares():
    nothing = torch.zeros(2, 2)
    ranked = Rankings(nothing, nothing, 0, NeuronSet.all(2, 2))
    table = mediation_table("m", Carriers(ranked, [], Mediation(nothing, nothing, nothing), (1, 1)), {})
    assert table.frame.height == 3 + len(MEASURED)
    assert {tuple(numbers) for _, *numbers in table.frame.iter_rows()} == {(None, None, None)}
    assert {cell for _, *cells in table.rows for cell in cells} == {"–"}


def test_mediation_is_told_of_the_groups_that_the_paper_patches():
    groups = Interchanged(SETS, None).groups
    assert list(groups) == ["TP↓"], "no control, no reverse, no whole MLPs"
    assert len(groups["TP↓"]) == 6
