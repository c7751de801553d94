"""Intervals over prompts: against a loop that writes for each draw, and against the scatter of new prompts."""

import math
from statistics import mean, stdev

import numpy as np
import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.neurons.activations import NeuronMeans, collect_means
from dposcope.neurons.contributions import Contributions, contributions
from dposcope.neurons.folds import collect_by_fold
from dposcope.neurons.resampling import FEWEST, neuron_numbers, prompt_intervals
from helpers.changes import tuned_copy
from helpers.families import TEXTS, random_direction

PARTS = 5
T4 = 2.7764451
"""Student's t, 4 degrees of freedom, 97.5 %: from a printed table."""
T9 = 2.2621572
NEW = 3
DRAWS = 3
PROMPTS = (TEXTS * PARTS)[: 2 * PARTS]


def shares_by_loop(change: Contributions) -> dict[str, float]:
    """Some of the numbers, neuron by neuron."""
    cells = list(
        zip(
            *(
                table.flatten().tolist()
                for table in (
                    change.cosine,
                    change.before.mean,
                    change.after.mean,
                    change.projection_before,
                    change.projection_after,
                )
            ),
            strict=True,
        )
    )
    deltas = [before * early - after * late for _, before, after, early, late in cells]
    toxic_down = [
        delta
        for (cosine, before, *_), delta in zip(cells, deltas, strict=True)
        if cosine > 0 and before > 0 and delta > 0
    ]
    down = [delta for delta in deltas if delta > 0]
    shifts = [before - after for _, before, after, *_ in cells]
    early = [before for _, before, *_ in cells]
    middle_shift, middle_early = mean(shifts), mean(early)
    covariance = sum((s - middle_shift) * (e - middle_early) for s, e in zip(shifts, early, strict=True))
    spread = math.sqrt(sum((s - middle_shift) ** 2 for s in shifts) * sum((e - middle_early) ** 2 for e in early))
    return {
        "reducing": len(down) / len(deltas),
        "negative": sum(before < 0 for before in early) / len(deltas),
        "share_of_neurons TP↓": len(toxic_down) / len(down),
        "share_of_contribution TP↓": sum(toxic_down) / sum(down),
        "r_activation": covariance / spread,
        "shift_percent": 100 * sum(map(abs, shifts)) / sum(map(abs, early)),
    }


def test_intervals_are_those_of_runs_on_drawn_prompts(lm):
    tuned, direction = tuned_copy(lm), random_direction(lm)
    before, after = (collect_by_fold(model, PROMPTS, PARTS, new_tokens=NEW) for model in (lm, tuned))
    change = contributions(lm, tuned, before.whole, after.whole, direction)
    found = prompt_intervals(change, before.folds, after.folds, draws=DRAWS, seed=3)

    drawn = []
    for row in np.random.default_rng(3).integers(PARTS, size=(DRAWS, PARTS)).tolist():
        prompts = [prompt for part in row for prompt in PROMPTS[part::PARTS]]
        means = [collect_means(model, prompts, new_tokens=NEW) for model in (lm, tuned)]
        drawn.append(shares_by_loop(contributions(lm, tuned, *means, direction)))
    for name, value in shares_by_loop(change).items():
        error = math.sqrt(PARTS / (PARTS - 1)) * stdev(one[name] for one in drawn)
        low, high = value - T4 * error, value + T4 * error
        most = math.inf if name == "shift_percent" else 1.0
        least = -1.0 if name == "r_activation" else 0.0
        # A neuron whose mean is next to 0 may have another sign where batches are padded otherwise.
        slack = 0.1 if name == "shift_percent" else 2.5 * T4 / lm.n_neurons
        assert found[name] == pytest.approx((max(least, low), min(most, high)), abs=slack), name


def drawn(seed: int) -> tuple[NeuronMeans, NeuronMeans, list[NeuronMeans], list[NeuronMeans]]:
    """Means of 400 neurons over 40 prompts that shift what all tokens of a text do, in ten parts."""
    stream = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(1)
    middle, moved = (0.6 * torch.randn(1, 400, generator=fixed, dtype=torch.float64) for _ in range(2))
    prompts = torch.randn(40, 1, 400, generator=stream, dtype=torch.float64)
    rows = prompts + 0.1 * torch.randn(40, 8, 400, generator=stream, dtype=torch.float64)

    def means(of: torch.Tensor) -> NeuronMeans:
        tokens = of.flatten(0, 1).unsqueeze(1)
        return NeuronMeans(tokens.mean(0), tokens.square().mean(0), len(tokens))

    early, late = middle + rows, middle + moved + 0.5 * rows
    parts = [slice(part, None, 10) for part in range(10)]
    return means(early), means(late), [means(early[p]) for p in parts], [means(late[p]) for p in parts]


def test_they_are_as_wide_as_new_prompts_scatter():
    table = torch.randn(1, 400, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    numbers, widths = [], []
    for seed in range(40):
        before, after, early, late = drawn(100 + seed)
        change = Contributions(table.tanh(), table, table, torch.ones_like(table), before, after)
        numbers.append(neuron_numbers(change))
        widths.append(prompt_intervals(change, early, late, draws=40))
    for name in numbers[0]:
        scatter = stdev(one[name] for one in numbers)
        errors = [(one[name][1] - one[name][0]) / 2 / T9 for one in widths]
        ratio = math.sqrt(mean(error**2 for error in errors)) / scatter
        # Drawn means have the noise of the means and their own; what is read from means on both sides doubles that.
        assert 0.75 < ratio < (2.2 if name == "r_activation" else 1.5), name


def test_too_few_parts_have_no_interval_and_sides_must_match():
    before, after, early, late = drawn(0)
    table = torch.ones(1, 400, dtype=torch.float64)
    change = Contributions(table, table, table, table, before, after)
    assert prompt_intervals(change, early[: FEWEST - 1], late[: FEWEST - 1]) == {}
    assert prompt_intervals(change, (), ()) == {}
    with pytest.raises(DposcopeError, match="10 parts before and 9 after"):
        prompt_intervals(change, early, late[:-1])
