"""How many texts of a run repeat their prompt, and how toxic these and the others are, as Markdown.

A chat model that is asked to continue a toxic text often repeats it: its score is then that of the prompt.

python benchmarks/repeats.py runs/measured --words 4
"""

import argparse
import re
import sys
from pathlib import Path

import polars as pl

from dposcope.errors import DposcopeError
from dposcope.evaluation.numbers import MEAN
from dposcope.evaluation.statistics.comparisons import bootstrap_mean
from dposcope.jobs.measuring.measure import read_samples
from dposcope.report.table import Column, Table, frame_of

_WORD = re.compile(r"[a-z0-9*']+")
_COLUMNS = (
    Column("condition", "condition"),
    Column("repeats", "repeats its prompt"),
    Column("texts", "texts"),
    Column.ranged("toxicity", "toxicity", MEAN),
)


def repeats(prompt: str, text: str, words: int) -> bool:
    """Whether so many words in a row of a text stand in its prompt."""
    asked, said = (_WORD.findall(one.lower().replace("’", "'")) for one in (prompt, text))
    known = {tuple(asked[start : start + words]) for start in range(len(asked) - words + 1)}
    return any(tuple(said[start : start + words]) in known for start in range(len(said) - words + 1))


def table_of(run: Path, *, words: int) -> Table:
    """Of every condition, texts with and without a repetition, and their mean score.

    Raises:
        DposcopeError: the run has no texts.
    """
    frame = read_samples(run)
    both = zip(frame["prompt"], frame["continuation"], strict=True)
    frame = frame.with_columns(pl.Series("repeats", [repeats(prompt, text, words) for prompt, text in both]))
    rows = []
    for name in frame["condition"].unique(maintain_order=True):
        for whether in (True, False):
            scores = frame.filter((pl.col("condition") == name) & (pl.col("repeats") == whether))["toxicity"].to_list()
            found = bootstrap_mean(scores) if scores else None
            rows.append(
                {
                    "condition": name,
                    "repeats": "yes" if whether else "no",
                    "texts": str(len(scores)),
                    "toxicity": None if found is None else found.mean,
                    "toxicity_low": None if found is None else found.low,
                    "toxicity_high": None if found is None else found.high,
                }
            )
    title = f"Texts that repeat {words} words of their prompt in a row, and the others."
    return Table("repeats", title, frame_of(rows), _COLUMNS)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--words", type=int, default=4)
    options = parser.parse_args()
    try:
        table = table_of(options.run, words=options.words)
    except DposcopeError as error:
        print(f"repeats: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from error
    print(table.markdown())


if __name__ == "__main__":
    main()
