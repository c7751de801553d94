"""Figures on the page of an edit: its strength, its groups, the change of score for each prompt."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from dposcope.evaluation.numbers import exact
from dposcope.report.edit.page import GroupSize, SearchStep
from dposcope.report.figures import COLOURS, MARKERS, MUTED, RULE, house_style, name_rows, one_axes


def strength_curve(steps: Sequence[SearchStep], *, bound: float | None, chosen: float | None) -> Figure:
    """What each strength costs in log-perplexity, with intervals; the bound and the chosen strength are marked.

    Args:
        steps: trials in any order; at least one.
        bound: dashed, in nats per token.
        chosen: a dotted line at this strength.
    """
    ordered = sorted(steps, key=lambda step: step.strength)
    with house_style():
        figure, axes = one_axes(2.9)
        strengths = [step.strength for step in ordered]
        means = [step.increase.mean for step in ordered]
        axes.plot([0.0, *strengths], [0.0, *means], color=RULE, linewidth=1.2)
        for step in ordered:
            taken = step.strength == chosen
            colour = COLOURS["edit"] if taken else COLOURS["base"]
            interval = [step.increase.low, step.increase.high]
            axes.plot([step.strength, step.strength], interval, color=colour, linewidth=2.2)
            marker = MARKERS["edit" if taken else "base"]
            axes.plot([step.strength], [step.increase.mean], marker, color=colour, markersize=6)
        if bound is not None:
            axes.axhline(bound, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate(
                f"bound {exact(bound)}",
                (0, bound),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=9,
                color=MUTED,
            )
        if chosen:
            axes.axvline(chosen, color=COLOURS["edit"], linewidth=0.9, linestyle=(0, (1, 2)))
        axes.set_xlim(left=0)
        axes.margins(x=0.06, y=0.12)
        axes.grid(axis="y")
        axes.set_xlabel("strength")
        axes.set_ylabel("log-perplexity, rise in nats per token")
        return figure


def group_bars(groups: Sequence[GroupSize]) -> Figure:
    """Bars of group sizes; the filled part is the number of edited neurons.

    Args:
        groups: from top to bottom; at least one.
    """
    with house_style():
        figure, axes = one_axes(0.2 + 0.42 * len(groups))
        places = range(len(groups))
        axes.barh(places, [group.size for group in groups], height=0.56, color=RULE)
        axes.barh(places, [group.chosen for group in groups], height=0.56, color=COLOURS["edit"])
        for place, group in enumerate(groups):
            axes.annotate(
                f"{group.chosen:,} of {group.size:,}",
                (group.size, place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
            )
        name_rows(axes, [group.group for group in groups])
        # Leave room for the numbers beside the longest bar. With them, no axis is needed.
        axes.set_xlim(0, 1.5 * max([1, *(group.size for group in groups)]))
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        return figure


def change_scatter(before: Sequence[float], after: Sequence[float], *, axis: str, names: tuple[str, str]) -> Figure:
    """One point per prompt: its score before (across) and after (up); below the diagonal it fell.

    Args:
        before: scores between 0 and 1.
        after: the same prompts.
        axis: what is scored.
        names: of the two conditions.
    """
    with house_style():
        figure, axes = one_axes(3.5)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.plot(before, after, "o", color=COLOURS["edit"], markersize=5.5, alpha=0.55, markeredgewidth=0)
        # Outside, since dots may stand in every part of the axes, and most often in these corners.
        axes.text(1.02, 0.0, "fell", transform=axes.transAxes, color=MUTED)
        axes.text(0.0, 1.02, "rose", transform=axes.transAxes, color=MUTED)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.set_aspect("equal")
        axes.grid()
        axes.set_xlabel(f"{axis}: {_cut(names[0])}")
        axes.set_ylabel(f"{axis}: {_cut(names[1])}")
        return figure


def _cut(label: str, length: int = 30) -> str:
    return label if len(label) <= length else f"{label[: length - 1]}…"
