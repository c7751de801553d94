"""Conditions of finished runs, paired by prompt, as Markdown: from `samples.parquet`, published ones among them.

    python benchmarks/paired.py docs/results/three-seeds/measured-0 --difference gains dpo
    python benchmarks/paired.py docs/results/how-does-dpo-reduce-toxicity/put-back --share dpo

`--difference A B`: mean score of A minus that of B. `--share WHOLE`: of the reduction that WHOLE has, what each other
condition gives, and what it lacks: where a tuned model takes its base's values in some part, that much is undone.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.numbers import NOTHING, SHARE
from dposcope.evaluation.statistics.comparisons import paired_difference, paired_share
from dposcope.jobs.measuring.measure import read_samples
from dposcope.report.table import Column, Table, frame_of

NO_SCORES = ("protocol", "model", "fingerprint", "condition", "row", "prompt", "prompt_digest", "continuation")
"""Columns that hold no measure."""
NO_SCORER = ("repetition", "empty")


def scores_of(run: Path) -> dict[str, pl.DataFrame]:
    """Condition → scores, a column a scorer and a row a prompt.

    Raises:
        DposcopeError: the run has no texts.
    """
    frame = read_samples(run)
    return {
        name: frame.filter(pl.col("condition") == name).sort("row").drop(*NO_SCORES, *NO_SCORER, strict=False)
        for name in frame["condition"].unique(maintain_order=True)
    }


def named(found: dict[str, pl.DataFrame], name: str) -> pl.DataFrame:
    """The scores of one condition.

    Raises:
        DposcopeError: there is none of that name.
    """
    if name not in found:
        raise DposcopeError(f"the run has no condition {name!r}, only {', '.join(found)}")
    return found[name]


def differences(runs: Sequence[Path], one: str, other: str) -> Table:
    """A line a run: the mean score of one condition minus that of another, with its interval over prompts."""
    lines: list[dict[str, str]] = []
    for run in runs:
        found = scores_of(run)
        ours, theirs = named(found, one), named(found, other)
        lines.append(
            {"run": run.name} | {name: str(paired_difference(ours[name], theirs[name])) for name in ours.columns}
        )
    columns = [Column(name, name) for name in lines[0]]
    return Table("paired", f"{one} minus {other}, paired by prompt.", frame_of(lines), tuple(columns))


def shares(run: Path, whole: str) -> Table:
    """A line a condition: its share of the reduction of the whole one, and what is lacking, by each scorer."""
    found = scores_of(run)
    base, most = named(found, BASE), named(found, whole)
    lines: list[dict[str, str]] = []
    for name, scores in found.items():
        line = {"condition": name}
        for scorer in base.columns if name not in (BASE, whole) else ():
            share = paired_share(base[scorer], scores[scorer], most[scorer])
            lacking = SHARE.with_interval(1 - share.share, 1 - share.high, 1 - share.low)
            line |= {scorer: str(share), f"{scorer}, lacking": lacking}
        if len(line) > 1:
            lines.append(line)
    columns = [Column(name, name) for name in (lines[0] if lines else {"condition": NOTHING})]
    return Table("shares", f"Share of the reduction of {whole}, paired by prompt.", frame_of(lines), tuple(columns))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    asked = parser.add_mutually_exclusive_group(required=True)
    asked.add_argument("--difference", nargs=2, metavar=("A", "B"))
    asked.add_argument("--share", metavar="WHOLE")
    options = parser.parse_args()
    try:
        if options.difference:
            tables = [differences(options.runs, *options.difference)]
        else:
            tables = [shares(run, options.share) for run in options.runs]
    except DposcopeError as error:
        print(f"paired: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    for table in tables:
        print(table.markdown())


if __name__ == "__main__":
    main()
