"""Texts of a run before and after, chosen by rule: every N-th prompt, as Markdown, offensive words masked.

python benchmarks/texts.py runs/measured --condition edit --every 30 --most 6
"""

import argparse
import sys
from pathlib import Path

import polars as pl

from dposcope.errors import DposcopeError
from dposcope.jobs.measuring.measure import read_samples
from dposcope.report.table import Column, Table, frame_of


def texts(run: Path, condition: str, *, every: int, most: int) -> Table:
    """Prompt, the plain model's text and the condition's, of prompts 1, 1 + N, 1 + 2 N, …

    Raises:
        DposcopeError: the run has no texts, or none of the condition.
    """
    frame = read_samples(run)
    if condition not in frame["condition"].unique().to_list():
        raise DposcopeError(f"{run} has no condition {condition!r}; choose from {sorted(set(frame['condition']))}")
    by_name = {name: frame.filter(pl.col("condition") == name).sort("row") for name in ("none", condition)}
    rows = list(range(0, len(by_name["none"]), every))[:most]

    lines = [
        {
            "prompt": " ".join(by_name["none"]["prompt"][row].split()),
            "before": " ".join(by_name["none"]["continuation"][row].split()),
            "after": " ".join(by_name[condition]["continuation"][row].split()),
        }
        for row in rows
    ]
    columns = (Column("prompt", "prompt"), Column("before", "before"), Column("after", "after"))
    return Table("texts", f"Every {every}th prompt.", frame_of(lines), columns)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--condition", default="edit")
    parser.add_argument("--every", type=int, default=30)
    parser.add_argument("--most", type=int, default=6)
    options = parser.parse_args()
    try:
        table = texts(options.run, options.condition, every=options.every, most=options.most)
    except DposcopeError as error:
        print(f"texts: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    print(table.markdown())


if __name__ == "__main__":
    main()
