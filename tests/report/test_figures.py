import re
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from dposcope.evaluation.statistics.intervals import Difference, Estimate
from dposcope.report.edit.figures import change_scatter, group_bars, strength_curve
from dposcope.report.edit.page import GroupSize, SearchStep
from dposcope.report.figures import (
    COLOURS,
    MARKERS,
    Row,
    figure_svg,
    interval_dots,
)

ROWS = [
    Row("Plain model", "base", Estimate(0.289, 0.25, 0.33, 200)),
    Row("Edited", "edit", Estimate(0.131, 0.1, 0.16, 200)),
    Row("Control", "control", Estimate(0.29, 0.24, 0.34, 200)),
]
STEPS = [SearchStep(1.5, Difference(0.25, 0.2, 0.3, 6)), SearchStep(1.0, Difference(0.11, 0.09, 0.13, 6))]
GROUPS = [GroupSize("TP", 9241, 5083), GroupSize("AN", 0, 0)]


def all_figures():
    return {
        "dots": interval_dots(ROWS, axis="mean toxicity", reference=0.289),
        "curve": strength_curve(STEPS, bound=0.2, chosen=1.0),
        "bars": group_bars(GROUPS),
        "scatter": change_scatter([0.1, 0.9], [0.2, 0.1], axis="toxicity", names=("Plain model", "Edited")),
    }


def lines(figure) -> list[tuple[list[float], list[float], str]]:
    return [
        (list(map(float, line.get_xdata())), list(map(float, line.get_ydata())), line.get_color())
        for line in figure.axes[0].lines
    ]


def texts(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_dots_stand_at_means_and_lines_span_intervals():
    drawn = lines(interval_dots(ROWS, axis="mean toxicity", reference=0.289))
    for place, row in enumerate(ROWS):
        colour = COLOURS[row.role]
        assert ([row.estimate.mean], [place], colour) in drawn
        assert ([row.estimate.low, row.estimate.high], [place, place], colour) in drawn
    assert any(x == [0.289, 0.289] for x, _, _ in drawn)


def test_dots_below_zero_are_inside_the_axes():
    figure = interval_dots([Row("a", "edit", Estimate(-0.2, -0.5, 0.1, 5))], axis="x")
    assert figure.axes[0].get_xlim()[0] <= -0.5


def test_a_dot_at_zero_is_whole():
    axes = interval_dots([Row("a", "edit", Estimate(0.0, 0.0, 0.0, 50))], axis="x").axes[0]
    (dot,) = [line for line in axes.lines if line.get_marker() == "D"]
    assert not dot.get_clip_on()


def test_the_search_is_drawn_in_order_of_strength_with_the_chosen_one_marked():
    drawn = lines(strength_curve(STEPS, bound=0.2, chosen=1.0))
    assert drawn[0][:2] == ([0.0, 1.0, 1.5], [0.0, 0.11, 0.25])
    assert ([1.0], [0.11], COLOURS["edit"]) in drawn
    assert ([1.5], [0.25], COLOURS["base"]) in drawn
    assert ([1.5, 1.5], [0.2, 0.3], COLOURS["base"]) in drawn
    assert any(y == [0.2, 0.2] for _, y, _ in drawn)


def test_a_search_that_found_nothing_marks_nothing():
    drawn = lines(strength_curve(STEPS, bound=None, chosen=0.0))
    assert COLOURS["edit"] not in [colour for _, _, colour in drawn]


def test_the_words_beside_the_diagonal_stand_where_no_dot_can():
    figure = change_scatter([0.0, 1.0], [1.0, 0.0], axis="toxicity", names=("Plain model", "Edited"))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    words = [text for text in axes.texts if text.get_text() in ("fell", "rose")]
    assert len(words) == 2
    for text in words:
        place = text.get_window_extent()
        assert not axes.bbox.overlaps(place)
        assert figure.bbox.x0 <= place.x0 < place.x1 <= figure.bbox.x1
        assert place.y1 <= figure.bbox.y1


def test_bars_are_as_long_as_counts():
    figure = group_bars(GROUPS)
    assert [float(bar.get_width()) for bar in figure.axes[0].patches] == [9241, 0, 5083, 0]
    assert "5,083 of 9,241" in texts(figure_svg(figure, name="bars", description=""))


def test_each_prompt_is_a_point_on_equal_axes():
    figure = change_scatter([0.1, 0.9], [0.2, 0.1], axis="toxicity", names=("a", "b" * 50))
    assert ([0.1, 0.9], [0.2, 0.1], COLOURS["edit"]) in lines(figure)
    assert figure.axes[0].get_aspect() == 1.0
    assert figure.axes[0].get_ylabel() == f"toxicity: {'b' * 29}…"


def test_kinds_differ_in_marker_as_well_as_colour():
    assert MARKERS.keys() == COLOURS.keys() - {"tp", "tn", "ap", "an"}
    assert len(set(MARKERS.values())) == len(MARKERS)
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_the_same_figure_gives_the_same_bytes_whatever_the_reader_configured():
    plain = {name: figure_svg(figure, name=name, description="d") for name, figure in all_figures().items()}
    with mpl.rc_context({"svg.fonttype": "path", "font.size": 30, "lines.linewidth": 9, "text.color": "red"}):
        before = dict(mpl.rcParams)
        configured = {name: figure_svg(figure, name=name, description="d") for name, figure in all_figures().items()}
        assert dict(mpl.rcParams) == before
    assert configured == plain


def test_figures_of_one_page_share_no_identifier_and_point_only_into_themselves():
    seen: set[str] = set()
    for name, figure in all_figures().items():
        svg = figure_svg(figure, name=name, description="d")
        ids = re.findall(r'\bid="([^"]+)"', svg)
        assert ids
        assert len(set(ids)) == len(ids)
        assert all(one.startswith(f"{name}-") for one in ids)
        assert not seen & set(ids)
        seen |= set(ids)
        used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', svg)
        assert used
        assert {left or right for left, right in used} <= set(ids)


@pytest.mark.parametrize("name", list(all_figures()))
def test_an_svg_asks_for_nothing_and_carries_no_style_of_its_own(name):
    svg = figure_svg(all_figures()[name], name=name, description='a "b" <c>')
    assert not re.search(r"https?:|xmlns|style=|<style|<metadata|<!|<\?|<script", svg)
    root = ElementTree.fromstring(svg)
    assert root.tag == "svg"
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"] == 'a "b" <c>'


@pytest.mark.parametrize("name", list(all_figures()))
def test_every_colour_follows_the_theme_with_the_colour_itself_to_fall_back_on(name):
    svg = figure_svg(all_figures()[name], name=name, description="")
    paints = set(re.findall(r'(?:fill|stroke)="([^"]+)"', svg))
    assert len(paints) > 1
    assert all(paint == "none" or re.fullmatch(r"var\(--fig-[a-z]+, #[0-9a-f]{6}\)", paint) for paint in paints), paints


def test_text_stays_text_with_a_size_that_a_phone_can_show():
    svg = figure_svg(interval_dots(ROWS, axis="mean toxicity"), name="dots", description="")
    assert {"Plain model", "Edited", "0.131", "mean toxicity"} <= set(texts(svg))
    sizes = re.findall(r'<text[^>]*font-size="([\d.]+)', svg)
    assert len(sizes) == len(texts(svg))
    width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    # 343 px is what a phone of 375 px leaves.
    assert min(map(float, sizes)) * 343 / width > 10


def test_labels_of_any_kind_are_drawn_as_they_are():
    label = "$x_1$ <b>&amp; 漢字 \u0e01"
    svg = figure_svg(interval_dots([Row(label, "edit", ROWS[0].estimate)], axis=label), name="x", description=label)
    root = ElementTree.fromstring(svg)
    assert [element.text for element in root.iter("text") if element.text == label]


def test_a_long_label_takes_two_lines_at_most():
    row = Row("one two three four five six seven eight nine ten eleven", "edit", ROWS[0].estimate)
    shown = texts(figure_svg(interval_dots([row, ROWS[0]], axis=""), name="x", description=""))
    assert "one two three four" in shown
    assert any(text.endswith(" …") for text in shown)
    assert not any("eleven" in text for text in shown)
    endless = Row("w" * 500, "edit", ROWS[0].estimate)
    assert max(map(len, texts(figure_svg(interval_dots([endless], axis=""), name="x", description="")))) < 30
