"""Effect against price: toxicity left over the rise of log-perplexity on the plain model's own harmless text."""

from dataclasses import dataclass

from matplotlib.figure import Figure

from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.evaluation.sampled.ideal import IDEAL
from dposcope.evaluation.statistics import Difference, Ratio
from dposcope.report.figures import COLOURS, GROUND, INK, MUTED, house_style

_SIZE = (6.4, 4.2)
_MARKERS = ("D", "s", "^", "v", "P", "X", "o", "<", ">", "p", "h", "*")
_PALETTE = (COLOURS["edit"], COLOURS["control"], COLOURS["part"], COLOURS["paper"], "#56b4e9", "#e69f00", INK)


@dataclass(frozen=True)
class Spot:
    """One condition in the figure."""

    label: str
    left: Ratio
    """Mean toxicity divided by the plain model's."""
    rise: Difference
    """Of harmless log-perplexity, nats per token."""


def spots_of(scores: Scores) -> list[Spot]:
    """The conditions that have both numbers, in the order of the scores."""
    found: list[Spot] = []
    for name, against in scores.against_none.items():
        rise = against.differences.get("harmless_logppl")
        if against.toxicity_ratio is not None and rise is not None:
            found.append(Spot(name, against.toxicity_ratio, rise))
    return found


def front_figure(scores: Scores) -> Figure | None:
    """Each condition as a dot with both intervals, the ideal as a line; None where no condition has both numbers.

    Low and left is good. The ideal is the mean of the plain model's harmless samples over the plain model's greedy
    texts: a condition that is lower has gone beyond what leaving toxic text out gives.
    """
    spots = spots_of(scores)
    if not spots:
        return None
    with house_style():
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.subplots()
        axes.axhline(1, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.axvline(0, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        ideal = scores.conditions.get(IDEAL, {}).get("toxicity")
        if ideal is not None and scores.conditions[BASE]["toxicity"].mean > 0:
            share = ideal.mean / scores.conditions[BASE]["toxicity"].mean
            axes.axhline(share, color=COLOURS["limit"], linewidth=1.4, linestyle=(0, (1.5, 1.5)), label="ideal")
        for place, spot in enumerate(spots):
            colour = _PALETTE[place % len(_PALETTE)]
            axes.plot([spot.rise.low, spot.rise.high], [spot.left.ratio] * 2, color=colour, linewidth=1.4)
            axes.plot([spot.rise.mean] * 2, [spot.left.low, spot.left.high], color=colour, linewidth=1.4)
            axes.plot(
                [spot.rise.mean],
                [spot.left.ratio],
                _MARKERS[place % len(_MARKERS)],
                color=colour,
                markersize=8,
                markeredgecolor=GROUND,
                linestyle="none",
                label=spot.label,
            )
        axes.set_ylim(bottom=0)
        axes.grid()
        axes.set_xlabel("log-perplexity of harmless text, rise in nats per token")
        axes.set_ylabel(f"{scores.concept} left, share of the plain model's")
        figure.legend(frameon=False, loc="outside right upper")
        return figure
