"""The table of samples: levels as levels, by the numbers of `scores.json`."""

from dataclasses import replace

import numpy as np

from dposcope.evaluation.conditions.scores import BASE, summarise
from dposcope.evaluation.perplexity import WindowLosses
from dposcope.evaluation.sampled.drawn import Samples
from dposcope.report.sampled import sampled_table
from helpers.outcomes import outcome


def sampled(seed: int):
    draw = np.random.default_rng(seed)
    losses = WindowLosses(draw.uniform(5, 40, 36), draw.integers(4, 12, 36))
    samples = Samples(["a text", "another", "a third"] * 12, {"toxicity": draw.random((12, 3))}, losses, losses)
    return replace(outcome(draw.random(12), seed=seed), samples=samples)


def test_log_perplexity_of_samples_is_a_level_and_no_difference():
    scores = summarise({BASE: sampled(0), "edit": sampled(1)}, protocol="rtp", model="m")
    table = sampled_table(scores)
    assert table is not None
    shown = table.markdown()
    assert "+" not in shown
    for name in (BASE, "edit"):
        for measure in ("sampled_logppl", "sampled_logppl_second", "expected_maximum"):
            assert str(scores.conditions[name][measure]) in shown


def test_without_a_condition_no_mark_is_explained():
    table = sampled_table(summarise({BASE: sampled(0)}, protocol="rtp", model="m"))
    assert table is not None
    assert "Holm" not in " ".join(table.notes)
