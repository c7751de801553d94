"""Concept against cost: every trial of a search, the best of each method as a line, the chosen edit."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape
from matplotlib.figure import Figure

from dposcope.evaluation.statistics import Difference, Estimate
from dposcope.study.figures import COLOURS, MARKERS, MUTED, figure_svg, house_style
from dposcope.study.page import Tradeoff, TriedEdit

_METHODS = (("#009e73", "s"), ("#d55e00", "^"), ("#b0609a", "v"), ("#e69f00", "P"), ("#56b4e9", "X"))
"""Colour and marker of each method, told apart without either alone; the edit's blue is that of what is chosen."""
_WIDTH, _HEIGHT = 6.4, 4.4
_REACH = 6.0
"""Radius of what answers to a pointer, in points."""


@dataclass(frozen=True)
class HeldOut:
    """The chosen edit on prompts and text that the search never saw."""

    concept: Estimate
    rise: Difference


def tradeoff(found: Tradeoff, *, bound: float | None, held_out: HeldOut | None, concept: str) -> Figure:
    """The trade-off of a search.

    Args:
        found: trials and choice.
        bound: dashed, on the rise of log-perplexity.
        held_out: drawn with both intervals beside the chosen edit's search value.
        concept: what is scored.
    """
    with house_style():
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        axes.axhline(found.base, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            "unedited",
            (1, found.base),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            color=MUTED,
        )
        if bound is not None:
            axes.axvline(bound, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        written = [one for one in found.trials if one.concept is not None]
        for place, method in enumerate(dict.fromkeys(one.method for one in written)):
            colour, marker = _METHODS[place % len(_METHODS)]
            own = [one for one in written if one.method == method]
            xs, ys = [one.rise for one in own], [one.concept.mean for one in own if one.concept is not None]
            axes.plot(xs, ys, marker, color=colour, markersize=5.5, linestyle="none", alpha=0.75, label=method)
            best = _envelope(own)
            if len(best) > 1:
                axes.plot([one.rise for one in best], [_mean(one) for one in best], color=colour, linewidth=1.1)
        axes.plot(
            [found.chosen_rise],
            [found.chosen.mean],
            "o",
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=COLOURS["edit"],
            markeredgewidth=1.6,
            linestyle="none",
            label="chosen, as the search saw it",
        )
        if held_out is not None:
            x, y = held_out.rise, held_out.concept
            axes.plot([x.low, x.high], [y.mean, y.mean], color=COLOURS["edit"], linewidth=2)
            axes.plot([x.mean, x.mean], [y.low, y.high], color=COLOURS["edit"], linewidth=2)
            axes.plot(
                [x.mean],
                [y.mean],
                MARKERS["edit"],
                color=COLOURS["edit"],
                markersize=7.5,
                linestyle="none",
                label="chosen, on unseen prompts and text",
            )
        axes.set_ylim(bottom=0)
        axes.set_xlim(left=min([0.0, *(one.rise for one in written)]))
        axes.grid()
        axes.set_xlabel("log-perplexity, rise in nats per token")
        axes.set_ylabel(f"mean {concept}")
        # Above: no corner is free of marks for every search.
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
        return figure


def tradeoff_svg(found: Tradeoff, figure: Figure, *, description: str) -> Markup:
    """The figure for a page; a pointer on a trial shows what it was.

    Args:
        found: what was drawn.
        figure: from `tradeoff`.
        description: for readers who do not see it.
    """
    svg = str(figure_svg(figure, name="tradeoff", description=description))
    axes = figure.axes[0]
    spots: list[str] = []
    for trial in found.trials:
        if trial.concept is not None:
            across, up = figure.transFigure.inverted().transform(
                axes.transData.transform((trial.rise, trial.concept.mean))
            )
            x, y = across * _WIDTH * 72, (1 - up) * _HEIGHT * 72
            place = f'cx="{x:.1f}" cy="{y:.1f}" r="{_REACH}"'
            spots.append(f'<circle class="spot" {place}><title>{escape(said(trial))}</title></circle>')
    return Markup(svg.removesuffix("</svg>") + "".join(spots) + "</svg>")


def said(trial: TriedEdit) -> str:
    """A trial in one line."""
    score = "not written" if trial.concept is None else f"{trial.concept.mean:.3f}"
    return f"{trial.method}, {trial.settings}: {score} at {trial.rise:+.3f}, KL {trial.kl:.3f}"


def _envelope(trials: Sequence[TriedEdit]) -> list[TriedEdit]:
    best: list[TriedEdit] = []
    for trial in sorted(trials, key=lambda one: one.rise):
        if not best or _mean(trial) < _mean(best[-1]):
            best.append(trial)
    return best


def _mean(trial: TriedEdit) -> float:
    assert trial.concept is not None
    return trial.concept.mean
