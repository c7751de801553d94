"""The figure of effect against price."""

import math

import pytest

from dposcope.evaluation.conditions.scores import Comparison, Scores
from dposcope.evaluation.statistics.intervals import Difference, Estimate, Ratio
from dposcope.report.figures import MOST_SERIES
from dposcope.report.front import front_figure, named_spots, spots_of


def comparison(ratio, rise):
    differences = {} if rise is None else {"harmless_logppl": Difference(rise, rise - 0.01, rise + 0.02, 60)}
    return Comparison(differences, None if ratio is None else Ratio(ratio, ratio - 0.1, ratio + 0.1, 200))


def scores(against, *, ideal=0.1):
    conditions = {name: {"toxicity": Estimate(0.2, 0.1, 0.3, 200)} for name in ("none", *against)}
    if ideal is not None:
        conditions["ideal"] = {"toxicity": Estimate(ideal, 0.05, 0.15, 60)}
    return Scores("strict", "m", conditions, against, {})


def test_each_condition_stands_where_its_numbers_say():
    found = scores({"mine": comparison(0.3, 0.1), "other": comparison(0.5, 0.02)})
    figure = front_figure(found)
    axes = figure.axes[0]
    dots = {line.get_label(): line.get_xydata().tolist() for line in axes.lines if not line.get_label().startswith("_")}
    assert dots["mine"] == [[0.1, 0.3]]
    assert dots["other"] == [[0.02, 0.5]]
    assert [y for _, y in dots["ideal"]] == pytest.approx([0.5, 0.5])
    bars = [line.get_xydata().tolist() for line in axes.lines]
    assert [[0.09, 0.3], [0.12, 0.3]] in [[[round(x, 9) for x in point] for point in bar] for bar in bars]
    assert [[0.1, 0.2], [0.1, 0.4]] in [[[round(x, 9) for x in point] for point in bar] for bar in bars]


def test_a_rise_without_an_interval_is_drawn_with_its_number_of_texts():
    one = Comparison({"harmless_logppl": Difference(0.1, -math.inf, math.inf, 1)}, Ratio(0.3, 0.2, 0.4, 200))
    axes = front_figure(scores({"mine": one, "other": comparison(0.5, 0.02)})).axes[0]
    dots = {line.get_label(): line.get_xydata().tolist() for line in axes.lines if not line.get_label().startswith("_")}
    assert dots["mine (n = 1, no interval)"] == [[0.1, 0.3]]
    assert "other" in dots
    assert axes.get_xlim()[1] < 1


def test_what_lacks_a_number_is_left_out():
    found = scores({"mine": comparison(0.3, 0.1), "a": comparison(None, 0.1), "b": comparison(0.3, None)}, ideal=None)
    assert [spot.label for spot in spots_of(found)] == ["mine"]
    labels = [line.get_label() for line in front_figure(found).axes[0].lines]
    assert "ideal" not in labels
    assert front_figure(scores({"a": comparison(None, 0.1)})) is None


def test_eight_of_many_have_names_and_the_best_are_among_them():
    found = scores({f"m{number:02}": comparison(0.9 - 0.02 * number, 0.3) for number in range(18)})
    found.against_none["cheap"] = comparison(0.95, 0.01)
    named = [spot.label for spot in named_spots(spots_of(found))]
    assert len(named) == MOST_SERIES
    assert {"cheap", "m17"} <= set(named)
    assert "m00" not in named
    labels = [line.get_label() for line in front_figure(found).axes[0].lines]
    assert "11 others" in labels
    assert len([label for label in labels if label.startswith(("m", "cheap"))]) == MOST_SERIES


def test_long_names_are_cut_in_their_middle_and_leave_the_axes_their_room():
    long = "edit:runs/a-folder-with-a-long-name/another-one/of-many/edit.safetensors,strength="
    few = {"harmless_logppl": Difference(0.1, -math.inf, math.inf, 9)}
    found = {f"{long}{step}": Comparison(few, Ratio(0.3 + 0.1 * step, 0.2, 0.8, 200)) for step in range(3)}
    figure = front_figure(scores(found))
    figure.draw_without_rendering()
    (legend,) = figure.legends
    inside, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= inside.x0 < inside.x1 <= whole.x1
    assert figure.axes[0].bbox.width > 0.4 * whole.width
    assert figure.axes[0].bbox.x1 <= inside.x0
    assert figure.axes[0].xaxis.label.get_window_extent().x0 >= whole.x0
    assert len({text.get_text() for text in legend.get_texts()}) == 4, "three names that differ, and the ideal"


def test_a_name_that_begins_with_an_underscore_is_in_the_legend():
    (legend,) = front_figure(scores({"_mine": comparison(0.3, 0.1)}, ideal=None)).legends
    assert [text.get_text().strip() for text in legend.get_texts()] == ["_mine"]


def test_a_mark_at_nothing_left_is_whole():
    axes = front_figure(scores({f"m{number}": comparison(0.0, 0.1) for number in range(12)})).axes[0]
    marks = [line for line in axes.lines if line.get_marker() not in ("None", None)]
    assert len(marks) == 1 + MOST_SERIES
    assert not any(line.get_clip_on() for line in marks)
