"""Concept against cost: a line per rival, what was measured as points, intervals of the best where all are compared."""

from collections.abc import Sequence

import numpy as np
from benchmarks.rivals.compare import SCORE, best_at
from benchmarks.rivals.placing import COSTS
from benchmarks.rivals.sweep import Sweep
from matplotlib.figure import Figure

from dposcope.evaluation.statistics.comparisons import bootstrap_mean
from dposcope.report.figures import COLOURS, MUTED, house_style

_PALETTE = ("#d55e00", "#009e73", "#b0609a", "#e69f00", "#56b4e9", "#24292f", "#767d87")
_MARKERS = ("^", "s", "v", "P", "X", "o", "<", ">", "p", "h", "*")
_DASHES = ((0, ()), (0, (5, 2)), (0, (1.5, 1.5)))
_END = 0.36
"""Right end of the axis; what costs more is left out."""
_MARGIN = 0.05
"""Left of 0: what costs less than nothing."""


def tradeoffs(sweeps: Sequence[Sweep], ours: str | None, concept: str) -> Figure:
    """The figure.

    Args:
        sweeps: of all rivals.
        ours: drawn in the house's blue, broader.
        concept: what is scored.
    """
    with house_style():
        figure = Figure(figsize=(7.6, 4.4), layout="constrained")
        axes = figure.subplots()
        base = float(sweeps[0].base.per_prompt[SCORE].mean())
        axes.axhline(base, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        others = [found for found in sweeps if found.rival.name != ours]
        told = {ours, *_best_untrained(others)}
        for found in sweeps:
            if found.rival.name == ours:
                colour, marker, dash, width = COLOURS["edit"], "D", _DASHES[0], 2.4
            else:
                place = others.index(found)
                colour, marker = _PALETTE[place % len(_PALETTE)], _MARKERS[place % len(_MARKERS)]
                dash, width = _DASHES[(place // len(_PALETTE)) % len(_DASHES)], 1.2
            costs = np.linspace(0, max(COSTS), 121)
            best = [best_at(found.lines, cost).score for cost in costs]
            axes.plot(costs, best, color=colour, linewidth=width, linestyle=dash)
            spots = [spot for line in found.lines for spot in line[1:] if -_MARGIN <= spot.cost <= _END]
            axes.plot(
                [spot.cost for spot in spots],
                [spot.score for spot in spots],
                marker,
                color=colour,
                markersize=6.5 if found.rival.name == ours else 4.5,
                linestyle="none",
                label=found.rival.name,
            )
            if found.rival.name not in told:
                continue
            # Side by side, so that intervals at one cost do not hide each other.
            nudge = 0.0012 * (sweeps.index(found) - len(sweeps) / 2)
            for cost in COSTS:
                estimate = bootstrap_mean(best_at(found.lines, cost).values(SCORE))
                axes.plot(
                    [cost + nudge, cost + nudge], [estimate.low, estimate.high], color=colour, linewidth=0.8, alpha=0.8
                )
        axes.set_ylim(bottom=0)
        axes.set_xlim(-_MARGIN, _END)
        axes.grid()
        axes.set_xlabel("log-perplexity, rise in nats per token")
        axes.set_ylabel(f"mean {concept}, best within the cost")
        figure.legend(frameon=False, fontsize=8, loc="outside right upper")
        return figure


def _best_untrained(sweeps: Sequence[Sweep]) -> set[str]:
    """The rivals that are lowest at some cost among those that nobody trained."""
    free = [found for found in sweeps if not found.rival.trained]
    return {min(free, key=lambda found: best_at(found.lines, cost).score).rival.name for cost in COSTS if free}
