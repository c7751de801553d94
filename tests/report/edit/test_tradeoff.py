"""The trade-off: what is drawn, and the spots that answer to a pointer."""

import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from dposcope.evaluation.statistics.intervals import Difference, Estimate
from dposcope.report.edit.page import Tradeoff, TriedEdit
from dposcope.report.edit.render import render_page
from dposcope.report.edit.tradeoff import HeldOut, tradeoff, tradeoff_svg, trial_line
from helpers.pages import page


def tried(method, rise, concept, settings="strength 1.00", on_front=False):
    estimate = None if concept is None else Estimate(concept, concept - 0.02, concept + 0.02, 10)
    return TriedEdit(
        method,
        settings,
        rise,
        rise,
        estimate,
        None if concept is None else 0.1,
        None if concept is None else 0.5,
        on_front,
    )


FOUND = Tradeoff(
    [
        tried("learned-1", 0.01, 0.2, on_front=True),
        tried("learned-1", 0.05, 0.05, on_front=True),
        tried("learned-1", 0.03, 0.3),
        tried("groups", 0.04, 0.25),
        tried("groups", 0.4, None),
    ],
    base=0.3,
    chosen=Estimate(0.06, 0.04, 0.08, 10),
    chosen_rise=0.045,
    unseen=Estimate(0.08, 0.05, 0.11, 12),
    unseen_base=0.31,
    scorer="mean of two",
)
HELD_OUT = HeldOut(FOUND.unseen, Difference(0.05, 0.04, 0.06, 6))


def drawn():
    return tradeoff(FOUND, bound=0.05, held_out=HELD_OUT, concept="toxicity")


def test_every_trial_that_wrote_is_a_mark_of_its_method():
    axes = drawn().axes[0]
    marks = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert list(marks["learned-1"].get_xdata()) == [0.01, 0.05, 0.03]
    assert list(marks["groups"].get_xdata()) == [0.04]
    assert marks["learned-1"].get_color() != marks["groups"].get_color()
    assert marks["learned-1"].get_marker() != marks["groups"].get_marker()


def test_the_line_of_a_method_joins_only_what_nothing_beats():
    (line,) = [one for one in drawn().axes[0].lines if one.get_linewidth() == 1.1]
    assert list(line.get_xdata()) == [0.01, 0.05]
    assert list(line.get_ydata()) == [0.2, 0.05]


def test_the_front_joins_the_trials_on_it_from_left_to_right():
    turned = replace(FOUND, trials=FOUND.trials[::-1])
    figure = tradeoff(turned, bound=None, held_out=None, concept="toxicity")
    axes, (legend,) = figure.axes[0], figure.legends
    (line,) = [one for one in axes.lines if one.get_label().startswith("front")]
    assert list(line.get_xdata()) == [0.01, 0.05]
    assert list(line.get_ydata()) == [0.2, 0.05]
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[-2:] == [line.get_label(), "chosen, as the search saw it"]


@pytest.mark.parametrize("methods", [1, 2, 3, 8])
def test_the_legend_leaves_the_axes_their_room_and_is_whole(methods):
    found = replace(
        FOUND, trials=[tried(f"learned-{1 + one}", 0.01 * one, 0.2, on_front=True) for one in range(methods)]
    )
    figure = tradeoff(found, bound=0.5, held_out=HELD_OUT, concept="toxicity")
    figure.draw_without_rendering()
    (legend,) = figure.legends
    inside, whole = legend.get_window_extent(), figure.bbox
    assert whole.x0 <= inside.x0 < inside.x1 <= whole.x1
    assert figure.axes[0].bbox.width > 0.8 * whole.width


def test_marks_at_a_concept_of_nothing_are_whole():
    none_left = replace(FOUND, trials=[tried("groups", 0.0, 0.0)], chosen=Estimate(0, 0, 0, 10), chosen_rise=0.0)
    gone = HeldOut(Estimate(0, 0, 0, 12), HELD_OUT.rise)
    axes = tradeoff(none_left, bound=None, held_out=gone, concept="toxicity").axes[0]
    marks = [line for line in axes.lines if line.get_marker() not in ("None", None)]
    assert len(marks) == 3
    assert not any(line.get_clip_on() for line in marks)


@pytest.mark.parametrize("low", [-0.3, -math.inf])
def test_the_chosen_edit_is_inside_the_axes_where_log_perplexity_fell(low):
    held_out = HeldOut(FOUND.unseen, Difference(-0.2, low, -low, 6 if low > -1 else 1))
    turned = replace(FOUND, chosen_rise=-0.1)
    axes = tradeoff(turned, bound=0.05, held_out=held_out, concept="toxicity").axes[0]
    assert -0.5 < axes.get_xlim()[0] < max(low, -0.2)


def test_every_trial_that_wrote_has_its_interval():
    axes = drawn().axes[0]
    ends = {
        tuple(map(tuple, segment.round(3).tolist())) for part in axes.collections for segment in part.get_segments()
    }
    assert ends == {
        ((one.rise, round(one.concept.low, 3)), (one.rise, round(one.concept.high, 3)))
        for one in FOUND.trials
        if one.concept is not None
    }


def test_held_out_has_both_intervals_and_another_mark():
    axes = drawn().axes[0]
    labels = [line.get_label() for line in axes.lines]
    assert "chosen, on reported prompts and text" in labels
    assert any(list(line.get_xdata()) == [0.04, 0.06] for line in axes.lines)
    assert any(list(line.get_ydata()) == [0.05, 0.11] for line in axes.lines)


def test_spots_lie_on_their_marks_and_say_the_settings():
    figure = drawn()
    svg = str(tradeoff_svg(FOUND, figure, description="a figure"))
    root = ElementTree.fromstring(svg)
    spots = root.findall("circle[@class='spot']")
    assert len(spots) == 4
    # Where the marks themselves were drawn: the first series' own elements.
    uses = [use for use in root.iter("use") if use.attrib.get("x")]
    places = {(round(float(use.attrib["x"])), round(float(use.attrib["y"]))) for use in uses}
    for spot, trial in zip(spots, [one for one in FOUND.trials if one.concept], strict=True):
        assert spot.find("title").text == trial_line(trial)
        x, y = float(spot.attrib["cx"]), float(spot.attrib["cy"])
        assert any(abs(x - a) <= 1.5 and abs(y - b) <= 1.5 for a, b in places)


def test_names_from_outside_are_inert():
    hostile = replace(FOUND, trials=[tried("</title><script>x</script>", 0.01, 0.2)])
    figure = tradeoff(hostile, bound=None, held_out=None, concept="toxicity")
    svg = str(tradeoff_svg(hostile, figure, description="a figure"))
    assert not re.search(r"<script", svg)
    assert ElementTree.fromstring(svg).find("circle/title").text.startswith("</title><script>")


def test_a_search_in_which_nothing_was_allowed_draws_its_axes():
    empty = replace(FOUND, trials=[tried("groups", 0.4, None)])
    assert 'class="spot"' not in tradeoff_svg(
        empty, tradeoff(empty, bound=0.05, held_out=None, concept="toxicity"), description="a figure"
    )


def test_no_edit_is_called_chosen_where_none_was():
    found = render_page(page(tradeoff=FOUND))
    assert "the one that then scored lowest was chosen" in found
    none = render_page(page(tradeoff=FOUND, chosen_strength=0.0))
    assert "so none was chosen: the model is unchanged." in none
    assert "scored lowest was chosen" not in none


def test_one_edit_is_one_edit():
    assert "The search tried 1 edit, on prompts" in render_page(page(tradeoff=replace(FOUND, trials=FOUND.trials[:1])))
