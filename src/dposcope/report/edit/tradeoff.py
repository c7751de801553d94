"""Figure of a search, concept against cost: all trials with intervals, the best of each method as a line, the Pareto
front, and the chosen edit."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dposcope.evaluation.numbers import fixed, signed
from dposcope.evaluation.statistics.intervals import Difference, Estimate
from dposcope.report.edit.page import Tradeoff, TriedEdit
from dposcope.report.figures import COLOURS, MARKERS, MUTED, figure_svg, house_style
from dposcope.report.series import series_styles

_WIDTH, _HEIGHT = 6.4, 4.4
_FRONT = "front: none is better in both"
_CHOSEN, _UNSEEN = "chosen, as the search saw it", "chosen, on reported prompts and text"
_REACH = 6.0
"""Radius of the area around a trial that shows its settings to a pointer, in points."""


@dataclass(frozen=True)
class HeldOut:
    """The chosen edit on prompts and text that the search never saw."""

    concept: Estimate
    rise: Difference


def tradeoff(search: Tradeoff, *, bound: float | None, held_out: HeldOut | None, concept: str) -> Figure:
    """The trade-off of a search.

    Args:
        search: trials and the chosen edit.
        bound: on the rise of log-perplexity; a dotted line.
        held_out: scores of the chosen edit on held-out data, drawn with both intervals.
        concept: name of the score.
    """
    with house_style():
        figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
        axes = figure.subplots()
        axes.axhline(search.base, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.annotate(
            "plain model",
            (1, search.base),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            color=MUTED,
        )
        if bound is not None:
            axes.axvline(bound, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        written = [trial for trial in search.trials if trial.concept is not None]
        # Wide and pale, below everything else, since it overlaps the line of the best method.
        ahead = sorted((trial for trial in written if trial.on_front), key=lambda trial: trial.rise)
        if ahead:
            axes.plot(
                [trial.rise for trial in ahead],
                [_mean(trial) for trial in ahead],
                color=COLOURS["edit"],
                linewidth=7,
                alpha=0.18,
                solid_capstyle="round",
                solid_joinstyle="round",
                label=_FRONT,
                zorder=1.5,
            )
        for method, style in series_styles([trial.method for trial in written]).items():
            colour, marker = style.colour, style.marker
            own = [trial for trial in written if trial.method == method]
            xs, ys = [trial.rise for trial in own], [trial.concept.mean for trial in own if trial.concept is not None]
            barred = [trial for trial in own if trial.concept is not None and trial.concept.known]
            axes.vlines(
                [trial.rise for trial in barred],
                [trial.concept.low for trial in barred if trial.concept is not None],
                [trial.concept.high for trial in barred if trial.concept is not None],
                color=colour,
                linewidth=0.8,
                alpha=0.4,
                zorder=1.8,
            )
            axes.plot(
                xs, ys, marker, color=colour, markersize=5, linestyle="none", alpha=0.85, label=method, clip_on=False
            )
            best = _envelope(own)
            if len(best) > 1:
                axes.plot([trial.rise for trial in best], [_mean(trial) for trial in best], color=colour, linewidth=1.1)
        axes.plot(
            [search.chosen_rise],
            [search.chosen.mean],
            "o",
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=COLOURS["edit"],
            markeredgewidth=1.6,
            linestyle="none",
            label=_CHOSEN,
            clip_on=False,
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
                label=_UNSEEN,
                clip_on=False,
            )
        axes.set_ylim(bottom=0)
        shown = [search.chosen_rise, *(trial.rise for trial in written)]
        if held_out is not None:
            shown += [held_out.rise.mean, *([held_out.rise.low] if held_out.rise.known else [])]
        least = min([0.0, *shown])
        axes.set_xlim(left=least - 0.02 * (axes.get_xlim()[1] - least))  # show every mark whole
        axes.grid()
        axes.set_xlabel("log-perplexity, rise in nats per token")
        axes.set_ylabel(f"mean {concept}")
        _add_legend(figure, axes)
        return figure


def tradeoff_svg(search: Tradeoff, figure: Figure, *, description: str) -> Markup:
    """The figure for a page. A pointer on a trial shows its settings.

    Args:
        search: the search that the figure shows.
        figure: from `tradeoff`.
        description: for readers who do not see it.
    """
    svg = str(figure_svg(figure, name="tradeoff", description=description))
    axes = figure.axes[0]
    spots: list[str] = []
    for trial in search.trials:
        if trial.concept is not None:
            across, up = figure.transFigure.inverted().transform(
                axes.transData.transform((trial.rise, trial.concept.mean))
            )
            x, y = across * _WIDTH * 72, (1 - up) * _HEIGHT * 72
            place = f'cx="{x:.1f}" cy="{y:.1f}" r="{_REACH}"'
            spots.append(f'<circle class="spot" {place}><title>{escape(trial_line(trial))}</title></circle>')
    return Markup(svg.removesuffix("</svg>") + "".join(spots) + "</svg>")


def trial_line(trial: TriedEdit) -> str:
    """A trial in one line."""
    score = "not written" if trial.concept is None else fixed(trial.concept.mean)
    return f"{trial.method}, {trial.settings}: {score} at {signed(trial.rise)}, KL {fixed(trial.kl)}"


def _add_legend(figure: Figure, axes: Axes) -> None:
    """Above the axes, since any corner may have marks, in as many columns as the figure's width has room for."""
    for columns in (3, 2, 1):
        legend = figure.legend(*_legend(axes), frameon=False, loc="outside upper center", ncols=columns)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def _legend(axes: Axes) -> tuple[list[Artist], list[str]]:
    """Legend entries: methods, then the front, then the chosen edit."""
    entries = list(zip(*axes.get_legend_handles_labels(), strict=True))
    rank = {_FRONT: 1, _CHOSEN: 2, _UNSEEN: 3}
    entries.sort(key=lambda entry: rank.get(entry[1], 0))
    return [handle for handle, _ in entries], [label for _, label in entries]


def _envelope(trials: Sequence[TriedEdit]) -> list[TriedEdit]:
    best: list[TriedEdit] = []
    for trial in sorted(trials, key=lambda trial: trial.rise):
        if not best or _mean(trial) < _mean(best[-1]):
            best.append(trial)
    return best


def _mean(trial: TriedEdit) -> float:
    assert trial.concept is not None
    return trial.concept.mean
