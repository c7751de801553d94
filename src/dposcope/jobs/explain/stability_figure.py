"""How often neurons keep their group when prompts, comments or the direction are drawn again; not in the paper."""

from typing import Any

from matplotlib.figure import Figure

from dposcope.jobs.explain.tables.stability import varied
from dposcope.neurons.agreement import Among, Labels
from dposcope.neurons.stability import NeuronStability
from dposcope.report.figures import COLOURS, MARKERS, MUTED, house_style

_SHOWN = {Among.ALL: "base", Among.MOST: "edit", Among.HALF: "control"}
"""Neurons → colour and marker."""
_PANELS = {Labels.MOVED: "group of eight", Labels.EFFECT: "↓ or ↑"}
_STEP = 0.24
"""Between the rows of one source."""


def stability_dots(found: NeuronStability) -> Figure:
    """Share of neurons that keep their group of the eight, and their way alone, by what was varied.

    A dot is the mean over pairs of repetitions, its bar the range of pairs, and the small upright line of its colour
    what chance would keep.

    Args:
        found: at least one source.
    """
    with house_style():
        figure = Figure(figsize=(7.2, 1.15 + 0.62 * len(found.sources)), layout="constrained")
        panels: Any = figure.subplots(1, len(_PANELS), sharey=True)
        for axes, (labels, title) in zip(panels, _PANELS.items(), strict=True):
            _panel(axes, found, labels)
            axes.set_title(title, fontsize=9, loc="left")
            axes.set_xlim(-2, 102)
            axes.set_xticks([0, 25, 50, 75, 100])
            axes.grid(axis="x")
            axes.set_xlabel("kept, per cent of neurons")
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(found.sources)), [varied(source) for source in found.sources])
        panels[0].set_ylim(len(found.sources) - 0.5, -0.5)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=len(_SHOWN) + 1, frameon=False)
        return figure


def _panel(axes: Any, found: NeuronStability, labels: Labels) -> None:
    for row, (among, role) in enumerate(_SHOWN.items()):
        colour = COLOURS[role]
        points: list[tuple[float, float]] = []
        by_chance: list[tuple[float, float]] = []
        for place, source in enumerate(found.sources):
            height = place + _STEP * (row - (len(_SHOWN) - 1) / 2)
            kept, chance = source.kept(labels, among), source.chance(labels, among)
            if kept is None or chance is None:
                continue
            axes.plot([100 * kept.low, 100 * kept.high], [height, height], color=colour, linewidth=2)
            points.append((100 * kept.mean, height))
            by_chance.append((100 * chance.mean, height))
        axes.plot(*_columns(by_chance), "|", color=colour, markersize=7, markeredgewidth=1.4)
        axes.plot(*_columns(points), MARKERS[role], color=colour, markersize=5.5, label=_name(among))
    axes.plot([], [], "|", color=MUTED, markersize=7, markeredgewidth=1.4, label="by chance")


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [across for across, _ in points], [up for _, up in points]


def _name(among: Among) -> str:
    return "all neurons" if among is Among.ALL else str(among)
