"""What this project can do without training: `dposcope edit`'s default, its ablation alone, and least squares."""

from functools import cache

from benchmarks.rivals.lines import Line
from benchmarks.rivals.replaced import Folded

from dposcope.interventions.edit import Edit
from dposcope.interventions.least_squares import LeastSquares
from dposcope.jobs.edit.choice import default_edit
from dposcope.jobs.ingredients.prepared import Ingredients
from dposcope.neurons.activations import NeuronMeans
from dposcope.neurons.groups import select_fraction

_BETA = 0.55
"""Fraction of each group that `dposcope edit` takes."""


def default_line(made: Ingredients, parts: str) -> tuple[Line, ...]:
    """The family of `dposcope edit` over its strength: `both` (gains and an ablation) or `ablation`, w = s."""
    selection = select_fraction(made.cosine, made.means.mean, beta=_BETA)

    def at(strength: float) -> Folded:
        return Folded(default_edit(made, selection, parts=parts, strength=strength))

    return (Line("", at, symbol="w" if parts == "ablation" else "s", start=2.0, most=8.0),)


def least_squares_line(made: Ingredients, disturbed: NeuronMeans) -> tuple[Line, ...]:
    """The smallest disturbance of neutral text for a share of the largest shift that gains of 0 to 2 can make."""
    problem = LeastSquares.of(made.lm, made.means, made.direction.vector, disturbed=disturbed)
    gains = cache(lambda share: Edit.of(problem.gains(share)))
    return (Line("", lambda share: Folded(gains(share)), symbol="share", start=0.3, most=1.0),)
