"""The paper's tables over several runs, as the paper has them over its models: each run's lines below one another."""

from collections.abc import Sequence

import polars as pl

from dposcope.jobs.reproduce.finished import FinishedRun
from dposcope.report.table import Table, led_by

JOINT = (
    "table-05-groups",
    "table-08-model",
    "table-09-training",
    "table-11-direction",
    "table-13-negative",
    "table-17-correlations",
    "table-18-reducing",
    "change",
)
"""Those that are short for each run; Tables 2, 3 and 19 are long, and stand in each run's own part."""


def joint_tables(runs: Sequence[FinishedRun]) -> list[Table]:
    """Every table of `JOINT` that two runs or more have, named `…-over-runs`.

    Cells are those of the runs' own tables; numbers come from their Parquet files, where all of them are there.
    """
    found = ((name, [(run, table) for run in runs if (table := run.table(name)) is not None]) for name in JOINT)
    return [_joined(name, parts) for name, parts in found if len(parts) > 1]


def _joined(name: str, parts: Sequence[tuple[FinishedRun, Table]]) -> Table:
    head = list(dict.fromkeys(column for _, table in parts for column in table.head if column != "model"))
    rows: list[tuple[str, ...]] = []
    for run, table in parts:
        for cells in table.rows:
            named = dict(zip(table.head, cells, strict=True))
            rows.append((run.model, run.study, run.protocol, *(named.get(column, "–") for column in head)))
    first = parts[0][1]
    notes = dict.fromkeys(note for _, table in parts for note in table.notes)
    return Table(
        f"{name}-over-runs",
        _title(first.title, str(parts[0][0].facts["base"])),
        _numbers(name, parts, head, rows),
        ("model", "study", "protocol", *head),
        tuple(rows),
        tuple(notes),
    )


def _title(title: str, base: str) -> str:
    """Without the one model that `Neuron groups of gemma-3-270m and what they carry.` speaks of."""
    for where in (f" of {base}", f" on {base}", f" from {base}"):
        title = title.replace(where, "")
    return title.replace(f" {base}", " the model").removesuffix(".") + ", over all runs."


def _numbers(
    name: str, parts: Sequence[tuple[FinishedRun, Table]], head: Sequence[str], rows: Sequence[tuple[str, ...]]
) -> pl.DataFrame:
    files = [run.folder / "tables" / f"{name}.parquet" for run, _ in parts]
    if not all(file.is_file() for file in files):
        names = ["model", "study", "protocol", *head]
        return pl.DataFrame(list(rows), schema=dict.fromkeys(names, pl.String), orient="row")
    frames = [
        led_by(pl.read_parquet(file), model=run.model, study=run.study, protocol=run.protocol)
        for (run, _), file in zip(parts, files, strict=True)
    ]
    return pl.concat(frames, how="diagonal_relaxed")
