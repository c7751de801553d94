"""Effect against cost: toxicity left over the rise of log-perplexity on the plain model's own harmless text."""

from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dposcope.evaluation.conditions.scores import BASE, Scores
from dposcope.evaluation.numbers import too_few
from dposcope.evaluation.sampled.ideal import IDEAL
from dposcope.evaluation.statistics.intervals import Difference, Ratio
from dposcope.report.figures import COLOURS, GROUND, MOST_SERIES, MUTED, RULE, house_style
from dposcope.report.series import legend_name, series_styles

_SIZE = (6.4, 4.2)


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


def named_spots(spots: list[Spot]) -> list[Spot]:
    """The spots that a figure names, in their order: those that no other is better than in both, then the lowest."""
    ahead = [
        one
        for one in spots
        if not any(
            other.left.ratio <= one.left.ratio
            and other.rise.mean <= one.rise.mean
            and (other.left.ratio, other.rise.mean) != (one.left.ratio, one.rise.mean)
            for other in spots
        )
    ]
    lowest = sorted((one for one in spots if one not in ahead), key=lambda one: one.left.ratio)
    chosen = sorted(ahead, key=lambda one: one.left.ratio)[:MOST_SERIES] + lowest
    return [one for one in spots if one in chosen[:MOST_SERIES]]


def front_figure(scores: Scores) -> Figure | None:
    """Each condition as a dot with both intervals, the ideal as a line; None where no condition has both numbers.

    At most `MOST_SERIES` conditions have a colour and a name, see `named_spots`; the others are pale dots.

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
        named = named_spots(spots)
        others = [spot for spot in spots if spot not in named]
        if others:
            axes.plot(
                [spot.rise.mean for spot in others],
                [spot.left.ratio for spot in others],
                "o",
                color=RULE,
                markersize=6,
                label=f"{len(others)} others",
                clip_on=False,
            )
        styles = series_styles([spot.label for spot in named])
        for spot in named:
            colour, name = styles[spot.label].colour, legend_name(spot.label)
            axes.plot([spot.rise.low, spot.rise.high], [spot.left.ratio] * 2, color=colour, linewidth=1.4)
            axes.plot([spot.rise.mean] * 2, [spot.left.low, spot.left.high], color=colour, linewidth=1.4)
            axes.plot(
                [spot.rise.mean],
                [spot.left.ratio],
                styles[spot.label].marker,
                color=colour,
                markersize=8,
                markeredgecolor=GROUND,
                linestyle="none",
                label=name if spot.rise.known else f"{name} ({too_few(spot.rise.n)})",
                clip_on=False,  # whole also where nothing is left
            )
        finish_front(figure, axes, scores.concept)
        return figure


def finish_front(figure: Figure, axes: Axes, concept: str) -> None:
    """Limits, labels and legend, once all dots are there."""
    axes.set_ylim(bottom=0)
    axes.grid()
    axes.set_xlabel("log-perplexity of harmless text, rise in nats per token")
    axes.set_ylabel(f"{concept} left, share of the plain model's")
    figure.legend(frameon=False, loc="outside right upper")
