"""One report over several finished explanations: models, studies and protocols. It loads no model."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from dposcope.artefacts import write_json, write_text
from dposcope.evaluation.conditions.scores import BASE
from dposcope.jobs.explain.claims.claim import TURNS, VERDICTS
from dposcope.jobs.explain.conditions import TUNED
from dposcope.jobs.ownership import REPORT, marked
from dposcope.jobs.reproduce.finished import FinishedRun
from dposcope.jobs.reproduce.overview_tables import overview_tables
from dposcope.report.masked_text import ShownText
from dposcope.report.section import Section
from dposcope.report.shell import asset, render
from dposcope.report.table import Table, clear_others

PROTOCOLS = ("strict", "reference")


def write_overview(out: Path, runs: Sequence[FinishedRun], *, title: str, raw: bool = False) -> None:
    """Write `report.html`, `overview.json` and the tables over all runs.

    Args:
        out: the folder.
        runs: at least one, in order.
        title: of the page.
        raw: write offensive words in tables as they are.
    """
    tables = overview_tables(runs)
    for table in tables:
        table.save(out / "tables", raw=raw)
    clear_others(out / "tables", {table.name for table in tables})
    write_json(out / "overview.json", marked(REPORT, {table.name: table.to_polars().to_dicts() for table in tables}))
    write_text(out / "report.html", overview_page(runs, tables, title=title, root=out))


def findings_lines(runs: Sequence[FinishedRun]) -> list[str]:
    """A sentence per run."""
    lines: list[str] = []
    for run in runs:
        base, tuned = (run.scores.conditions[name]["toxicity"] for name in (BASE, TUNED))
        verdicts = [claim.verdict for claim in run.facts.claims]
        told = [verdict for verdict in VERDICTS if verdict != TURNS or verdict in verdicts]
        counts = "claims: " + ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in told)
        rise = run.scores.against_none[TUNED].differences["logppl"]
        lines.append(
            f"{run.label}: {run.scores.concept} {base} → {tuned}, log-PPL {rise}; {run.scores.no_verdict or counts}"
        )
    return lines


def overview_page(runs: Sequence[FinishedRun], tables: Sequence[Table], *, title: str, root: Path) -> str:
    """The report as HTML; it links to each run's own by a relative path."""
    style = asset("report/templates/page.css", "jobs/reproduce/overview.css")
    return render(
        "jobs/reproduce/overview.html.jinja",
        ShownText(),
        page_style=style.text,
        page_style_hash=style.digest,
        title=title,
        sections=[Section(table.title.removesuffix("."), (), (), (table,)) for table in tables],
        groups=[_of_run(run, root) for run in runs],
        protocols=[protocol for protocol in PROTOCOLS if any(run.protocol == protocol for run in runs)],
    )


@dataclass(frozen=True)
class _RunTables:
    """One run's part of the page."""

    name: str
    protocol: str
    link: str
    """Link to the run's own report, relative to the page."""
    tables: list[Table]
    """Its tables that the paper has, too."""


def _of_run(run: FinishedRun, root: Path) -> _RunTables:
    tables = [table for table in run.tables if table.number is not None]
    return _RunTables(f"{run.model}, {run.study}", run.protocol, _link(run.folder / "report.html", root), tables)


def _link(file: Path, root: Path) -> str:
    try:
        return quote(os.fsencode(Path(os.path.relpath(file, root)).as_posix()))  # as bytes, which need not be UTF-8
    except ValueError:  # two drives of Windows have no path between them
        return file.resolve().as_uri()
