"""Finished explanations beside one another: models, studies and protocols in one report, made without any model."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import polars as pl

from dposcope.artefacts import write_json, write_text
from dposcope.data.concept import TOXICITY
from dposcope.evaluation.statistics import Share
from dposcope.evaluation.suite import BASE
from dposcope.jobs.explain.conditions import TUNED
from dposcope.jobs.explain.patches import FOUR_GROUPS
from dposcope.jobs.reproduce.finished import FinishedRun
from dposcope.jobs.reproduce.joint_tables import joint_tables
from dposcope.jobs.reproduce.made_of import made_of_table
from dposcope.report.masked_text import ShownText
from dposcope.report.section import Section, SectionTable, shown_cell
from dposcope.report.shell import asset, render
from dposcope.report.table import Table

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
    write_json(out / "overview.json", {table.name: table.to_polars().to_dicts() for table in tables})
    write_text(out / "report.html", overview_page(runs, tables, title=title, root=out))


def overview_tables(runs: Sequence[FinishedRun]) -> list[Table]:
    """What was found by each run, every claim of the paper over all of them, and the paper's short tables likewise."""
    made_of = made_of_table(runs, [label(run) for run in runs])
    return [findings_table(runs), claims_over_runs(runs), *joint_tables(runs), made_of]


def label(run: FinishedRun) -> str:
    """Model, study and protocol."""
    return f"{run.model} · {run.study} · {run.protocol}"


def findings_lines(runs: Sequence[FinishedRun]) -> list[str]:
    """A sentence per run."""
    lines: list[str] = []
    for run in runs:
        base, tuned = (run.scores.conditions[name]["toxicity"] for name in (BASE, TUNED))
        verdicts = [claim["verdict"] for claim in run.facts["claims"]]
        counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in ("held", "not held", "open"))
        rise = run.scores.against_none[TUNED].differences["logppl"]
        lines.append(f"{label(run)}: {run.scores.concept} {base} → {tuned}, log-PPL {rise}; claims: {counts}")
    return lines


def findings_table(runs: Sequence[FinishedRun]) -> Table:
    """One line per run: what tuning did, and how much of it patching gives."""
    concepts = {run.scores.concept: None for run in runs}
    (noun,) = concepts if len(concepts) == 1 else ("concept",)
    head = (
        "model", "study", "protocol", f"{noun} before", "after", "× before", "log-PPL", "F1", "neurons ↓",
        "share: listed tokens", "share: four groups", "share: random, by block",
    )  # fmt: skip
    rows, frame = [], []
    for run in runs:
        scores, shares = run.scores, run.facts["share_of_dpo"]
        base, tuned, against = scores.conditions[BASE], scores.conditions[TUNED], scores.against_none[TUNED]
        parts = ("patch-toxic-tokens", FOUR_GROUPS, "patch-random-layers")
        ratio = against.toxicity_ratio
        rows.append(
            (
                run.model,
                run.study if len(concepts) == 1 else f"{run.study}, {run.scores.concept}",
                run.protocol,
                str(base["toxicity"]),
                str(tuned["toxicity"]),
                "–" if ratio is None else str(ratio),
                str(against.differences["logppl"]),
                str(against.differences["f1"]),
                f"{100 * run.facts['reducing']:.1f} %",
                *(_share(shares.get(name)) for name in parts),
            )
        )
        frame.append(
            {
                "model": run.model,
                "study": run.study,
                "protocol": run.protocol,
                "concept": run.scores.concept,
                **{f"{measure}_before": value.mean for measure, value in base.items()},
                **{f"{measure}_after": value.mean for measure, value in tuned.items()},
                "toxicity_ratio": None if ratio is None else ratio.ratio,
                "toxicity_ratio_low": None if ratio is None else ratio.low,
                "toxicity_ratio_high": None if ratio is None else ratio.high,
                "reducing": run.facts["reducing"],
                **{
                    f"share_{name.removeprefix('patch-').replace('-', '_')}{end}": _part(shares.get(name), key)
                    for name in parts
                    for key, end in (("share", ""), ("low", "_low"), ("high", "_high"))
                },
            }
        )
    notes = (
        f"× before: {noun} after over before. log-PPL, F1: after minus before. share: of "
        "tuning's reduction, what patching those neurons gives (those that promote listed tokens; the four groups; as "
        "many random ones of each block); – where that reduction cannot be told from 0, or the "
        "patch was not measured.",
    )
    title = "What tuning did, and how much of it patched neurons carry."
    return Table("findings", title, pl.DataFrame(frame, infer_schema_length=None), head, tuple(rows), notes)


def claims_over_runs(runs: Sequence[FinishedRun]) -> Table:
    """Each claim of the paper, and what every run says of it."""
    order: dict[tuple[str, str], None] = {}
    found: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for number, run in enumerate(runs):
        for claim in run.facts["claims"]:
            key = (claim["section"], claim["claim"])
            order.setdefault(key)
            found.setdefault(key, {})[number] = claim
    asked = _asked(runs)
    head = ("section", "the paper says", "the paper's numbers", *(label(run) for run in runs), "counts as held if")
    rows = tuple(
        (
            section,
            says,
            asked.get((section, says), _UNKNOWN).paper,
            *(_verdict(found[section, says].get(number)) for number in range(len(runs))),
            asked.get((section, says), _UNKNOWN).rule,
        )
        for section, says in order
    )
    frame = pl.DataFrame(
        [
            {
                "section": section,
                "claim": says,
                "paper": asked.get((section, says), _UNKNOWN).paper,
                "rule": asked.get((section, says), _UNKNOWN).rule,
                "model": run.model,
                "study": run.study,
                "protocol": run.protocol,
                "verdict": claim["verdict"] if claim else "not testable",
                # A run of an earlier version has no numbers.
                **{name: claim.get(name) if claim else None for name in ("here", "measured", "value", "low", "high")},
            }
            for section, says in order
            for number, run in enumerate(runs)
            for claim in (found[section, says].get(number),)
        ],
        schema={
            **dict.fromkeys(
                ("section", "claim", "paper", "rule", "model", "study", "protocol", "verdict", "here", "measured"),
                pl.String,
            ),
            **dict.fromkeys(("value", "low", "high"), pl.Float64),
        },
    )
    notes = ["open: the interval does not decide; not testable: what the claim rests on was not measured in that run."]
    nouns = sorted({run.scores.concept for run in runs} - {TOXICITY.noun})
    if nouns:
        notes.append(f"The paper speaks of toxicity; of runs of another concept read {' or '.join(nouns)} for it.")
    return Table("claims-over-runs", "The paper's claims, over all runs.", frame, head, rows, tuple(notes))


@dataclass(frozen=True)
class _Asked:
    """What a claim is measured by."""

    paper: str
    """The paper's numbers."""
    rule: str
    """When it counts as held."""


_UNKNOWN = _Asked("–", "–")
"""Of a run from before its table said so."""


def _asked(runs: Sequence[FinishedRun]) -> dict[tuple[str, str], _Asked]:
    """By section and claim, from the runs' own tables of claims; the same in all of them."""
    tables = [table for run in runs if (table := run.table("claims")) is not None]
    # Read back from a folder, a table has its cells and not its numbers.
    rows = [dict(zip(table.head, row, strict=True)) for table in tables for row in table.rows]
    return {
        (row["section"], row["the paper says"]): _Asked(row["the paper's numbers"], row["counts as held if"])
        for row in rows
    }


def overview_page(runs: Sequence[FinishedRun], tables: Sequence[Table], *, title: str, root: Path) -> str:
    """The report as HTML; it links to each run's own by a relative path."""
    style = asset("report/templates/page.css", "jobs/reproduce/overview.css")
    return render(
        "jobs/reproduce/overview.html.jinja",
        ShownText(),
        page_style=style.text,
        page_style_hash=style.digest,
        title=title,
        sections=[Section(table.title.removesuffix("."), (), (), (_as_section(table),)) for table in tables],
        groups=[_of_run(run, root) for run in runs],
        protocols=[protocol for protocol in PROTOCOLS if any(run.protocol == protocol for run in runs)],
        shown_cell=shown_cell,
    )


@dataclass(frozen=True)
class _RunTables:
    """What the page shows of one run."""

    name: str
    protocol: str
    link: str
    """To the run's own report, relative to the page."""
    tables: list[SectionTable]


def _of_run(run: FinishedRun, root: Path) -> _RunTables:
    tables = [_as_section(table) for table in run.tables if table.name.startswith("table-")]
    return _RunTables(f"{run.model}, {run.study}", run.protocol, _link(run.folder / "report.html", root), tables)


def _link(file: Path, root: Path) -> str:
    try:
        return quote(Path(os.path.relpath(file, root)).as_posix())
    except ValueError:  # two drives of Windows have no path between them
        return file.resolve().as_uri()


def _as_section(table: Table) -> SectionTable:
    return SectionTable(table.title, table.head, table.rows, " ".join(table.notes))


def _share(share: dict[str, Any] | None) -> str:
    return "–" if share is None else str(Share(**share))


def _part(share: dict[str, Any] | None, key: str) -> float | None:
    return None if share is None else float(share[key])


def _verdict(claim: dict[str, Any] | None) -> str:
    return "not testable" if claim is None else f"{claim['verdict']}: {claim['here']}"
