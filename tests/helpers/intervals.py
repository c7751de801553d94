"""Intervals by scipy, to hold our own against."""

import numpy as np
from scipy.stats import bootstrap, norm, t


def interval(*columns: np.ndarray) -> tuple[float, float]:
    """BCa of a mean, of `Σ first / Σ second`, or of the ratio of two such quotients; tails as wide as Student's t.

    Items are resampled, not tokens. scipy draws other resamples than we, so the ends agree to a few per cent.
    """
    n = len(columns[0])
    if len(columns) == 1:
        columns = (columns[0], np.ones(n))
    if np.ptp(columns[0] / columns[1]) == 0 and len(columns) == 2:
        return (columns[0][0] / columns[1][0],) * 2  # scipy has no interval of a constant

    def statistic(rows: np.ndarray, axis: int) -> np.ndarray:
        sums = [column[rows].sum(axis) for column in columns]
        return sums[0] / sums[1] / (sums[2] / sums[3] if len(sums) == 4 else 1)

    level = 1 - 2 * norm.cdf(np.sqrt(n / (n - 1)) * t.ppf(0.025, n - 1))
    items, drawn = (np.arange(n),), np.random.default_rng(1)
    found = bootstrap(items, statistic, confidence_level=level, n_resamples=20_000, rng=drawn, vectorized=True)
    return tuple(found.confidence_interval)
