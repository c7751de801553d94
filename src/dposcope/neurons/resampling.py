"""Intervals over prompts for shares of neurons and correlations, by a cluster bootstrap.

The paper prints these numbers without intervals. Neurons are not a sample, and tokens of one text are correlated, so
neither can be resampled; prompts can. One generation gives means over P parts of the prompts. Each bootstrap draw takes
P of these parts with replacement. A jackknife is not used: leaving out one part changes few signs, and the resulting
interval of a share is up to twice too wide.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import cast

import numpy as np
from scipy.stats import t as student

from dposcope.data.given.numbers import seed_of, whole
from dposcope.errors import DposcopeError
from dposcope.neurons.activations import NeuronMeans, check_means
from dposcope.neurons.contributions import Contributions, check_change
from dposcope.neurons.folds import joined
from dposcope.neurons.shares import group_shares
from dposcope.neurons.shifts import correlations, shift_percent

Intervals = Mapping[str, tuple[float, float]]
"""A number's name → low and high of its 95 % interval."""

NO_INTERVALS: Intervals = MappingProxyType({})

PARTS = 10
"""Number of parts of the prompts. A t interval with 9 degrees of freedom is 15 % wider than a normal one."""
FEWEST = 5
"""With fewer parts, an interval would be too wide to be useful."""
DRAWS = 200
"""Number of draws; enough for a standard error accurate to 5 per cent."""
_BOUNDS = {"r_cosine": (-1.0, 1.0), "r_activation": (-1.0, 1.0), "shift_percent": (0.0, math.inf)}
"""Of what is no share."""


def prompt_intervals(
    c: Contributions,
    before: Sequence[NeuronMeans],
    after: Sequence[NeuronMeans],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> Intervals:
    """95 % intervals over prompts of the numbers in Tables 5, 13, 17 and 18, and of how much activations shift.

    The intervals are for another sample of as many prompts, with the same direction and models. They do not cover the
    value for infinitely many prompts: noise in the means moves shares of signs towards 50 %. The standard error is that
    of the draws × √(P / (P−1)), which corrects its bias for P parts. The interval is Student's t with P − 1 degrees of
    freedom, centred at the number. Intervals are rather too wide, most of all for `r_activation`, in which both
    variables are noisy means.

    Args:
        c: contributions over all prompts.
        before: means of the base over P disjoint parts of those prompts, see `collect_by_fold`.
        after: of the tuned model, over the same.
        draws: how often P parts are drawn.
        seed: of `numpy.random.default_rng(seed).integers(P, size=(draws, P))`.

    Returns:
        `reducing`, `increasing`, `negative`, `share_of_neurons TP↓` …, `share_of_contribution TP↓` …, `r_cosine`,
        `r_activation`, `shift_percent`; without those that some draw leaves undefined, and empty for fewer than
        5 parts.

    Raises:
        DposcopeError: parts of both sides differ in number.
    """
    check_change(c)
    before, after = _given("before", before), _given("after", after)
    parts = len(before)
    if parts != len(after):
        raise DposcopeError(f"{parts} parts before and {len(after)} after; collect both on the same prompts")
    if parts < FEWEST:
        return NO_INTERVALS
    found = neuron_numbers(c)
    # One draw in memory at a time: all of them would be gigabytes for a model of 8B.
    drawn = [
        neuron_numbers(
            replace(c, before=joined([before[p] for p in row], {}), after=joined([after[p] for p in row], {}))
        )
        for row in np.random.default_rng(seed_of(seed)).integers(parts, size=(whole("draws", draws), parts)).tolist()
    ]
    reach = float(student.ppf(0.975, parts - 1)) * math.sqrt(parts / (parts - 1))
    intervals: dict[str, tuple[float, float]] = {}
    for name, value in found.items():
        values = np.array([one.get(name, math.nan) for one in drawn])
        if np.isnan(values).any():
            continue
        error = float(values.std(ddof=1))
        low, high = _BOUNDS.get(name, (0.0, 1.0))
        intervals[name] = (max(low, value - reach * error), min(high, value + reach * error))
    return intervals


def _given(side: str, parts: object) -> list[NeuronMeans]:
    if not isinstance(parts, list | tuple):
        raise DposcopeError(f"{side} is a {type(parts).__name__}; give the folds of collect_by_fold (its .folds)")
    several = cast(list[NeuronMeans], [*parts])
    for one in several:
        check_means(one, side)
    return several


def neuron_numbers(c: Contributions) -> dict[str, float]:
    """The numbers that `prompt_intervals` gives intervals for; without undefined correlations."""
    shares, related = group_shares(c), correlations(c)
    numbers = {
        "reducing": shares.share_reducing,
        "increasing": shares.share_increasing,
        "negative": shares.negative_before,
        "shift_percent": shift_percent(c),
        **{f"share_of_neurons {share.group}": share.of_moved for share in shares.groups},
        **{f"share_of_contribution {share.group}": share.of_contribution for share in shares.groups},
    }
    for name, correlation in (("r_cosine", related.cosine), ("r_activation", related.activation)):
        if correlation.r is not None:
            numbers[name] = correlation.r
    return numbers
