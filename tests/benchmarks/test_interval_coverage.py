"""The table of coverage."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from interval_coverage import COUNTS, SHAPES, covered, table


def test_a_row_for_each_shape_and_a_cell_for_each_count():
    lines = table(runs=5).splitlines()
    assert len(lines) == 2 + len(SHAPES)
    assert all(line.count("|") == len(COUNTS) + 2 for line in lines)


def test_ours_covers_more_than_the_percentile_interval_where_items_are_few():
    ours, percentile = covered("bell-shaped (normal)", 10, runs=800)
    assert ours > percentile + 0.02
    assert ours > 0.92
