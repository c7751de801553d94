"""What finished explanations were made of: models, data, settings, counts, versions; for a report over several."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from dposcope.artefacts import read_json
from dposcope.evaluation.suite import BASE
from dposcope.jobs.reproduce.finished import FinishedRun
from dposcope.report.table import Table

_BUILT_IN = "built-in"
_DATA = ("prompts", "comments", "judge_comments", "neutral", "passages")
_SETTINGS = ("concept", "direction", "scorer", "token_judge", "dtype", "device", "batch_size", "seed")
_COUNTS = {"toxicity": "prompts measured", "logppl": "windows", "f1": "passages measured"}


def made_of_table(runs: Sequence[FinishedRun], labels: Sequence[str]) -> Table:
    """A column per run, a line per fact; of paths the file's name.

    Args:
        runs: at least one.
        labels: what to call each.
    """
    facts = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for one in facts for name in one))
    rows = tuple((name, *(one.get(name, "–") for one in facts)) for name in names)
    frame = pl.DataFrame(
        [
            {"model": run.model, "study": run.study, "protocol": run.protocol, "fact": name, "value": one.get(name)}
            for run, one in zip(runs, facts, strict=True)
            for name in names
        ],
        schema=dict.fromkeys(("model", "study", "protocol", "fact", "value"), pl.String),
    )
    note = "Of files the names alone; each run's own run.json has the paths."
    return Table("made-of", "What each run was made of.", frame, ("", *labels), rows, (note,))


def _facts(run: FinishedRun) -> dict[str, str]:
    settings: Mapping[str, Any] = run.facts.get("settings", {})
    base = run.scores.conditions[BASE]
    path = run.folder / "run.json"
    versions = read_json(path).get("versions", {}) if path.is_file() else {}
    return {
        "base": _short(run.facts["base"]),
        "tuned": _short(run.facts.get("tuned") or "–"),
        **{name.replace("_", " "): _short(settings.get(name)) for name in _DATA},
        **{name.replace("_", " "): str(settings[name]) for name in _SETTINGS if settings.get(name) is not None},
        **{said: f"{base[measure].n:,}" for measure, said in _COUNTS.items() if measure in base},
        **{name: str(version) for name, version in versions.items()},
    }


def _short(source: Any) -> str:
    """The last parts of paths; whatever is not there is built in."""
    if not source:
        return _BUILT_IN
    if isinstance(source, list):
        return ", ".join(_short(one) for one in source)
    path = Path(str(source))
    # A model's folder is nearly always called `model`: what it is in tells more.
    return str(source) if not path.is_absolute() else "/".join(path.parts[-2:]) if path.name == "model" else path.name
