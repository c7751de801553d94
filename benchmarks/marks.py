"""Which marks of finished runs stand by the p-value of the interval alone, and not by the sign-flip test, too.

    python benchmarks/marks.py docs/results

Every folder below the given ones that holds a samples.parquet is a run; its columns are toxicity, the judge, the LSTM
and repetition. Each condition is compared with none, and Holm's correction is over the conditions of a column.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import polars as pl

from dposcope.evaluation.conditions.scores import BASE
from dposcope.evaluation.sampled.ideal import IDEAL
from dposcope.evaluation.statistics.comparisons import paired_difference
from dposcope.evaluation.statistics.significance import holm
from dposcope.jobs.measuring.measure import read_samples
from dposcope.report.table import Column, Table

MEASURES = ("toxicity", "judge", "neural", "repetition")


def marks(runs: Sequence[Path]) -> Table:
    """A line for each mark that falls; the title counts all."""
    lines: list[dict[str, str]] = []
    every = 0
    for run in runs:
        frame = read_samples(run)
        by_name = {str(name): part.sort("row") for (name,), part in frame.group_by("condition", maintain_order=True)}
        base = by_name[BASE]
        # The ideal has no text for some prompts, and is no condition.
        compared = {n: part for n, part in by_name.items() if n not in (BASE, IDEAL) and len(part) == len(base)}
        for measure in (one for one in MEASURES if one in frame.columns and not base[one].is_null().any()):
            found = {n: paired_difference(part[measure], base[measure]) for n, part in compared.items()}
            alone, both = (holm(values) for values in zip(*((d.p, d.p_mark) for d in found.values()), strict=True))
            every += sum(alone)
            for (name, one), before, after in zip(found.items(), alone, both, strict=True):
                if before and not after:
                    told = {"run": str(run), "measure": measure, "condition": name, "difference": str(one)}
                    lines.append(told | {"p": f"{one.p:.1g}", "sign": f"{one.p_sign:.1g}"})
    names = {"run": "run", "measure": "measure", "condition": "condition", "difference": "difference"}
    columns = tuple(Column(*one) for one in (names | {"p": "p, interval", "sign": "p, sign flips"}).items())
    # Where every mark stands there is no line, so the columns are named.
    frame = pl.DataFrame(lines, schema={column.name: pl.String for column in columns})
    return Table("marks", f"{len(lines)} of {every} marks do not stand by both tests.", frame, columns)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    runs = [path.parent for folder in parser.parse_args().folders for path in sorted(folder.rglob("samples.parquet"))]
    print(marks(runs).markdown())


if __name__ == "__main__":
    main()
