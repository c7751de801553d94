"""Comments drawn anew, to see how much a direction depends on the draw.

    python benchmarks/redraw.py jigsaw_dev.csv --seed 1 --out comments-1.csv

The first half of the rows, which directions are computed from, is drawn from itself with replacement. A direction
takes the first 2,000 of them, so most of its comments are others. The second half, which the judge is trained on, stays
as it is.
"""

import argparse
from pathlib import Path

import numpy as np
import polars as pl


def redrawn(table: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The table with the rows of its first half drawn from these, with replacement."""
    middle = len(table) // 2
    rows = np.random.default_rng(seed).integers(middle, size=middle)
    return pl.concat([table[rows], table[middle:]])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comments", type=Path, help="a CSV file")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    redrawn(pl.read_csv(options.comments, infer_schema=False), options.seed).write_csv(options.out)


if __name__ == "__main__":
    main()
