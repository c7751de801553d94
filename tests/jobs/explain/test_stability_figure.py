"""The figure of stability draws the value's numbers."""

import numpy as np
import pytest

from dposcope.jobs.explain.figures import stability_dots
from dposcope.neurons.agreement import Among, Labels
from dposcope.report.figures import save_figure
from helpers.repeated import stable

FOUND = stable()
SHOWN = {"all neurons": Among.ALL, "90 % of |Δ|": Among.MOST, "50 % of |Δ|": Among.HALF}


def test_dots_are_means_and_bars_are_ranges():
    figure = stability_dots(FOUND)
    for axes, labels in zip(figure.axes, (Labels.MOVED, Labels.EFFECT), strict=True):
        named = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
        assert set(named) == {*SHOWN, "by chance"}
        bars = [line for line in axes.lines if len(line.get_xdata()) == 2 and line.get_linestyle() == "-"]
        for place, (name, among) in enumerate(SHOWN.items()):
            spreads = [source.kept(labels, among) for source in FOUND.sources]
            assert np.asarray(named[name].get_xdata()) == pytest.approx([100 * spread.mean for spread in spreads])
            drawn = bars[place * len(spreads) : (place + 1) * len(spreads)]
            for bar, spread in zip(drawn, spreads, strict=True):
                assert list(bar.get_xdata()) == pytest.approx([100 * spread.low, 100 * spread.high])
        ticks = [line for line in axes.lines if line.get_marker() == "|" and len(line.get_xdata())]
        chances = [[100 * source.chance(labels, among).mean for source in FOUND.sources] for among in SHOWN.values()]
        assert [list(line.get_xdata()) for line in ticks] == [pytest.approx(chance) for chance in chances]
    names = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert names[0] == "prompts, 2 parts"


def test_nothing_is_cut_off_and_the_bytes_are_the_same(tmp_path):
    for name in ("a", "b"):
        save_figure(stability_dots(FOUND), tmp_path / f"{name}.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    figure = stability_dots(FOUND)
    figure.canvas.draw()
    (legend,) = figure.legends
    inside, whole = legend.get_window_extent(), figure.bbox
    assert inside.x0 >= whole.x0
    assert inside.x1 <= whole.x1
