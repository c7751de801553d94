"""The paper's figures of neurons: each takes a value and returns a matplotlib figure.

Each group has the same colour and the same marker in every figure. Colour-blind readers can tell them apart, also in
print.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from dposcope.evaluation.numbers import fact, percent
from dposcope.evaluation.statistics.intervals import Estimate, Share
from dposcope.jobs.explain.tables.stability import varied
from dposcope.neurons.agreement import Among, Labels
from dposcope.neurons.contributions import Effect
from dposcope.neurons.groups import Group
from dposcope.neurons.ranks import CumulativeReduction, RangeShifts
from dposcope.neurons.shares import GroupShares, LayerSums
from dposcope.neurons.shifts import ShiftDensity, TopToxic
from dposcope.neurons.stability import NeuronStability
from dposcope.report.figures import COLOURS, INK, MARKERS, MUTED, RULE, Row, house_style, interval_dots

GROUP_COLOURS = {group: COLOURS[group.value.lower()] for group in Group}
"""Red, blue, green and yellow, as in the paper, near Okabe and Ito's hues."""
GROUP_MARKERS = {Group.TP: "o", Group.TN: "s", Group.AP: "^", Group.AN: "D"}

_ON_COLOUR = {Group.TP: "white", Group.TN: "white", Group.AP: "white", Group.AN: "black"}
"""Colour of text on a group's colour."""

_WIDTH = 5.1
"""In inches: two figures stand side by side on a laptop."""


def layer_balance(layers: LayerSums, *, first: int = 0) -> Figure:
    """Per block: what was reduced, what was added, and the net between (paper Figures 1 and 5).

    Args:
        layers: sums of Δ.
        first: blocks before this one are left out, as are those without an MLP.
    """
    blocks = [block for block in layers.blocks if block >= first]
    down, up, net = (sums[blocks].numpy() for sums in (layers.reduction, layers.increase, layers.net))
    with house_style():
        figure, axes = _axes(3.0)
        axes.axhline(0, color=MUTED, linewidth=0.9)
        axes.bar(blocks, net, width=0.62, color=COLOURS["edit"], alpha=0.28, label="net")
        axes.plot(blocks, down, "o", color=COLOURS["edit"], markersize=5.5, label="reduced (↓)")
        axes.plot(blocks, up, "^", color=COLOURS["control"], markersize=5.5, label="increased (↑)")
        axes.grid(axis="y")
        axes.set_xlabel("block")
        axes.set_ylabel("Σ Δ, in the stream's unit")
        _whole_numbers(axes)
        _legend(axes, 3)
        return figure


def group_proportions(shares: GroupShares) -> Figure:
    """Each group's share of the neurons that reduce, and of the reduction (paper Table 5, Figures 2a and 6a)."""
    reducing = [share for share in shares.groups if share.group.effect is Effect.REDUCES]
    bars = {
        "neurons": [share.of_moved for share in reducing],
        "reduction": [share.of_contribution for share in reducing],
    }
    with house_style():
        figure, axes = _axes(1.7)
        for place, values in enumerate(bars.values()):
            left = 0.0
            for share, value in zip(reducing, values, strict=True):
                group = share.group.group
                axes.barh(
                    place,
                    100 * value,
                    left=left,
                    height=0.62,
                    color=GROUP_COLOURS[group],
                    label=str(share.group) if place == 0 else None,
                )
                if value > 0.06:
                    middle, ink = left + 50 * value, _ON_COLOUR[group]
                    axes.text(middle, place, percent(value, 0), ha="center", va="center", color=ink)
                left += 100 * value
        axes.set_yticks(range(len(bars)), list(bars))
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("share in per cent")
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        _legend(axes, 4)
        return figure


def cumulative_curves(reduction: CumulativeReduction) -> Figure:
    """Reduction added up over neurons ranked by it, by group (paper Figures 2b and 6b)."""
    ranks = reduction.ranks.numpy()
    with house_style():
        figure, axes = _axes(3.2)
        axes.plot(ranks, 100 * reduction.share.numpy(), color=INK, linewidth=1.8, label="all")
        for place, (group, share) in enumerate(reduction.groups.items()):
            axes.plot(
                ranks,
                100 * share.numpy(),
                color=GROUP_COLOURS[group],
                linewidth=1.8,
                marker=GROUP_MARKERS[group],
                markersize=6,
                markevery=[len(ranks) * (place + 5) // 10] if len(ranks) else [],  # lines may lie on each other
                label=f"{group}↓",
            )
        if reduction.paper_rank:
            axes.axvline(reduction.paper_rank, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate(
                f"the paper's range: {reduction.paper_rank:,}",
                (reduction.paper_rank, 0.5),
                xycoords=("data", "axes fraction"),
                xytext=(5, 0),
                textcoords="offset points",
                color=MUTED,
            )
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid()
        _whole_numbers(axes)
        axes.set_xlabel("neurons, ranked by Δ")
        axes.set_ylabel("share of all reduction, per cent")
        _legend(axes, 5)
        return figure


def range_shifts(shifts: RangeShifts) -> Figure:
    """Activation shifts of one range of ranked neurons, group by group (paper Figures 2c, 6c and 7)."""
    with house_style():
        figure, axes = _axes(3.2)
        axes.axhline(0, color=MUTED, linewidth=0.9)
        ranks = np.arange(len(shifts.shift)) + shifts.used.start
        for group in Group:
            members = shifts.groups[group].numpy()
            axes.plot(
                ranks[members],
                shifts.shift.numpy()[members],
                GROUP_MARKERS[group],
                color=GROUP_COLOURS[group],
                markersize=4,
                alpha=0.75,
                markeredgewidth=0,
                label=f"{group}↓",
            )
        axes.set_xlim(shifts.used.start - 0.5, shifts.used.stop - 0.5)
        axes.margins(y=0.08)
        axes.grid(axis="y")
        _whole_numbers(axes)
        axes.set_xlabel("rank by Δ")
        axes.set_ylabel("activation shift, before − after")
        _legend(axes, 4, markerscale=1.5)
        return figure


def toxic_activations(top: TopToxic) -> Figure:
    """Mean activations of the neurons of highest cosine with the direction, before and after (paper Figure 3)."""
    ranks = np.arange(1, len(top.before) + 1)
    with house_style():
        figure, axes = _axes(3.0)
        axes.axhline(0, color=MUTED, linewidth=0.9)
        axes.vlines(ranks, top.before.numpy(), top.after.numpy(), color=RULE, linewidth=1.2)
        # A hollow, larger marker: both marks stay visible if the activation did not change.
        axes.plot(ranks, top.before.numpy(), "o", color=COLOURS["base"], markersize=6, fillstyle="none", label="before")
        axes.plot(ranks, top.after.numpy(), "D", color=COLOURS["edit"], markersize=3, label="after")
        axes.grid(axis="y")
        _whole_numbers(axes)
        axes.set_xlabel("rank by cosine with the direction")
        axes.set_ylabel("mean activation")
        _legend(axes, 2)
        return figure


def density_curve(density: ShiftDensity) -> Figure:
    """How activation shifts are spread over all neurons (paper Figure 4)."""
    with house_style():
        figure, axes = _axes(2.8)
        axes.stairs(density.density.numpy(), density.edges.numpy(), color=COLOURS["edit"], fill=True, alpha=0.35)
        axes.stairs(density.density.numpy(), density.edges.numpy(), color=COLOURS["edit"], linewidth=1.4)
        axes.axvline(density.mean, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_title(
            f"mean {fact(density.mean)}, standard deviation {fact(density.deviation)}; "
            f"{density.below + density.above:,} neurons outside",
            fontsize=9,
            color=MUTED,
            loc="left",
        )
        axes.grid(axis="y")
        axes.set_xlabel("activation shift, before − after")
        axes.set_ylabel("density")
        return figure


def group_layers(layers: LayerSums) -> Figure:
    """Reduction per block that has an MLP, a line for each group (paper Figure 8)."""
    with house_style():
        figure, axes = _axes(3.0)
        for group, sums in layers.groups.items():
            axes.plot(
                layers.blocks,
                sums[layers.blocks].numpy(),
                color=GROUP_COLOURS[group],
                marker=GROUP_MARKERS[group],
                markersize=4.5,
                linewidth=1.4,
                label=f"{group}↓",
            )
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        _whole_numbers(axes)
        axes.set_xlabel("block")
        axes.set_ylabel("Σ Δ of neurons ↓")
        _legend(axes, 4)
        return figure


def share_dots(rows: Sequence[tuple[str, str, Share]]) -> Figure:
    """Shares of the tuned model's reduction with their intervals, one below the other (paper Table 3 and section 5.2).

    Args:
        rows: label, role (`patch` or `control`) and share, from top to bottom.
    """
    roles = {"patch": "edit", "control": "control"}
    drawn = [
        Row(label, roles[role], Estimate(100 * share.share, 100 * share.low, 100 * share.high, share.n))
        for label, role, share in rows
    ]
    return interval_dots(drawn, axis="share of the reduction, per cent", reference=100.0, digits=0)


def _axes(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, figure.subplots()


def _whole_numbers(axes: Any) -> None:
    """Ticks of the horizontal axis: counts, ranks and blocks have no halves."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _legend(axes: Any, columns: int, *, markerscale: float = 1.0) -> None:
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        frameon=False,
        borderaxespad=0.2,
        markerscale=markerscale,
    )


_SHOWN = {Among.ALL: "base", Among.MOST: "edit", Among.HALF: "control"}
"""Neurons → colour and marker."""
_PANELS = {Labels.MOVED: "group of eight", Labels.EFFECT: "↓ or ↑"}
_STEP = 0.24
"""Between the rows of one source."""


def stability_dots(stability: NeuronStability) -> Figure:
    """Share of neurons that keep their group (of eight), and that keep the sign of Δ, by what was varied.

    A dot is the mean over pairs of repetitions. Its bar is the range over pairs. The short vertical line of the same
    colour is the share expected by chance.

    Args:
        stability: at least one source.
    """
    with house_style():
        figure = Figure(figsize=(6.4, 1.15 + 0.62 * len(stability.sources)), layout="constrained")
        panels: Any = figure.subplots(1, len(_PANELS), sharey=True)
        for axes, (labels, title) in zip(panels, _PANELS.items(), strict=True):
            _panel(axes, stability, labels)
            axes.set_title(title, fontsize=9, loc="left")
            axes.set_xlim(-2, 102)
            axes.set_xticks([0, 25, 50, 75, 100])
            axes.grid(axis="x")
            axes.set_xlabel("kept, per cent of neurons")
            axes.spines["left"].set_visible(False)
            axes.tick_params(axis="y", length=0)
        panels[0].set_yticks(range(len(stability.sources)), [varied(source) for source in stability.sources])
        panels[0].set_ylim(len(stability.sources) - 0.5, -0.5)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper left", ncols=len(_SHOWN) + 1, frameon=False)
        return figure


def _panel(axes: Any, stability: NeuronStability, labels: Labels) -> None:
    for row, (among, role) in enumerate(_SHOWN.items()):
        colour = COLOURS[role]
        points: list[tuple[float, float]] = []
        by_chance: list[tuple[float, float]] = []
        for place, source in enumerate(stability.sources):
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
