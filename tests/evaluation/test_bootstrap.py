"""How often the intervals hold the true number, by simulation: 95 % are promised."""

import math

import numpy as np
import pytest

from dposcope.evaluation import bootstrap
from dposcope.evaluation.bootstrap import Bootstrap
from dposcope.evaluation.statistics.comparisons import bootstrap_mean, paired_difference, paired_ratio

_RUNS = 1500
"""The standard error of a coverage of 0.95 is 0.006."""

SCORES = {
    "bell-shaped": (lambda generator, n: generator.normal(1, 1, n), 1.0),
    "of two kinds": (lambda generator, n: generator.beta(0.3, 0.7, n), 0.3),
    "skewed": (lambda generator, n: generator.beta(0.5, 2, n), 0.2),
    "with a long tail": (lambda generator, n: generator.gamma(2.0, size=n), 2.0),
}


def coverage(draw, truth, n, interval=bootstrap_mean):
    generator = np.random.default_rng(n)
    found = (interval(draw(generator, n), resamples=600) for _ in range(_RUNS))
    return sum(one.low <= truth <= one.high for one in found) / _RUNS


@pytest.mark.slow
@pytest.mark.parametrize("n", [12, 100, 200])
@pytest.mark.parametrize("scores", SCORES)
def test_coverage_of_means(scores, n):
    draw, truth = SCORES[scores]
    found = coverage(draw, truth, n)
    # Twelve scores with a long tail are too few for any interval that assumes no distribution: 0.925 ± 0.007.
    assert 0.93 - 0.02 * (n == 12) <= found <= 0.97


def test_the_percentile_interval_would_cover_too_little():
    generator, hits = np.random.default_rng(0), 0
    for _ in range(_RUNS):
        values = generator.normal(1, 1, 12)
        means = np.sort(values[generator.integers(0, 12, size=(600, 12))].mean(axis=1))
        hits += means[15] <= 1 <= means[584]
    assert hits / _RUNS < 0.925
    assert coverage(*SCORES["bell-shaped"], 12) > 0.935


def test_coverage_of_log_perplexity_of_twelve_windows():
    """A rise of nats per token, paired by window."""

    def rise(nats, **options):
        return paired_difference(nats, np.zeros_like(nats), denominators=np.full(len(nats), 1023.0), **options)

    found = coverage(lambda generator, n: 1023 * generator.normal(0.05, 0.02, n), 0.05, 12, rise)
    assert 0.93 <= found <= 0.97


def test_coverage_of_a_ratio_of_skewed_scores():
    def halved(pair, **options):
        return paired_ratio(*pair, **options)

    def draw(generator, n):
        base = generator.beta(0.5, 2, n)
        return base * generator.beta(2, 2, n), base

    assert 0.93 <= coverage(draw, 0.5, 100, halved) <= 0.97


def test_beyond_its_pole_the_correction_takes_the_outermost_resample():
    """One item decides everything: the correction for skewness has no value at this level."""
    values = np.zeros(12)
    values[0] = 1.0
    drawn = Bootstrap(values[None], resamples=200, seed=0)
    low, high = drawn.interval(lambda means: means[0], 0.999_999)
    assert low <= 1 / 12 <= high
    assert math.isfinite(low)
    assert math.isfinite(high)
    assert 0 < drawn.p_value(lambda means: means[0] - 0.5) <= 1


@pytest.mark.parametrize("n", [3, 250, 2500])  # the last is too large to keep its draws
def test_means_of_resamples_are_those_of_the_drawn_items(n):
    generator = np.random.default_rng(7)
    columns = np.random.default_rng(1).normal(size=(2, n))
    found = bootstrap._resampled_means(columns, 1200, 7)
    assert found.shape == (2, 1200)
    for draw in range(1200 if n == 250 else 400):
        drawn = generator.integers(0, n, size=n)
        assert found[:, draw] == pytest.approx([np.mean([column[item] for item in drawn]) for column in columns])
    again = bootstrap._resampled_means(columns[:1], 1200, 7)
    np.testing.assert_allclose(again[0], found[0], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("n", [40, 2500])
def test_rounding_does_not_part_resamples_that_tie(n):
    """Tenths cannot be told apart from whole numbers, which have no rounding."""
    whole = np.random.default_rng(3).integers(-3, 4, size=n).astype(float)
    tenths = Bootstrap(np.array([whole * 0.1]), resamples=800, seed=0)
    wholes = Bootstrap(np.array([whole]), resamples=800, seed=0)

    def mean(columns):
        return columns[0]

    assert tenths.interval(mean) == pytest.approx([0.1 * end for end in wholes.interval(mean)], rel=1e-9)
    assert tenths.p_value(mean) == pytest.approx(wholes.p_value(mean), rel=1e-9)


def test_resamples_of_every_size_that_a_condition_has_are_drawn_once(monkeypatch):
    """Its prompts, passages, windows, texts read for relevance, and texts of the ideal; condition after condition."""
    drawn, draws = [], bootstrap._draws
    monkeypatch.setattr(bootstrap, "_draws", lambda *given: drawn.append(given) or draws(*given))
    bootstrap._counts.cache_clear()
    for _ in range(3):
        for size in (11, 12, 13, 14, 15):
            bootstrap.Bootstrap(np.ones((1, size)), resamples=20, seed=0)
    assert len(drawn) == 5
