"""How often an interval holds the true mean, by simulation: ours, and the percentile interval it stands in place of.

    python benchmarks/interval_coverage.py [--runs 4000]

Scores of a known mean are drawn again and again, and each draw gets both intervals. Prints a table in Markdown.
"""

import argparse
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from dposcope.evaluation.statistics.comparisons import bootstrap_mean

Scores = NDArray[np.float64]

SHAPES: dict[str, tuple[Callable[[np.random.Generator, int], Scores], float]] = {
    "bell-shaped (normal)": (lambda generator, n: generator.normal(1.0, 1.0, n), 1.0),
    "of two kinds (beta 0.3, 0.7)": (lambda generator, n: generator.beta(0.3, 0.7, n), 0.3),
    "skewed (beta 0.5, 2)": (lambda generator, n: generator.beta(0.5, 2.0, n), 0.2),
    "with a long tail (gamma 2)": (lambda generator, n: generator.gamma(2.0, size=n), 2.0),
    "with a longer tail (exponential)": (lambda generator, n: generator.exponential(size=n), 1.0),
}
"""Shape of the scores → their draw, and their true mean."""
COUNTS = (10, 12, 32, 100, 200)
"""Items: windows and prompts."""
RESAMPLES = 1000


def covered(shape: str, n: int, *, runs: int) -> tuple[float, float]:
    """Shares of draws whose interval holds the mean: ours, and the percentile interval's."""
    draw, truth = SHAPES[shape]
    generator = np.random.default_rng(n)
    ours = percentile = 0
    for _ in range(runs):
        values = draw(generator, n)
        found = bootstrap_mean(values, resamples=RESAMPLES)
        ours += found.low <= truth <= found.high
        means = values[generator.integers(0, n, size=(RESAMPLES, n))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        percentile += bool(low <= truth <= high)
    return ours / runs, percentile / runs


def table(*, runs: int) -> str:
    """Rows: shapes; columns: counts; cells: ours / percentile, in per cent."""
    lines = [
        f"| scores | {' | '.join(f'n = {n}' for n in COUNTS)} |",
        f"| --- | {' | '.join('---' for _ in COUNTS)} |",
    ]
    for shape in SHAPES:
        cells = (covered(shape, n, runs=runs) for n in COUNTS)
        lines.append(f"| {shape} | {' | '.join(f'{100 * ours:.0f} / {100 * other:.0f}' for ours, other in cells)} |")
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=4000)
    print(table(runs=parser.parse_args().runs))


if __name__ == "__main__":
    main()
