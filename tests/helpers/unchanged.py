"""The numbers of four small jobs, for a redesign to hold itself against.

`PYTHONPATH=tests python -m helpers.unchanged` prints how the working tree's numbers differ from the recorded ones, and
the same with `--record` records them anew: after a change that is meant to move numbers, and only then.
The commands are run as a user runs them, so nothing but the command line and the files of a run must stay.
What was recorded must still be there and equal. Beside it there may be more: files, keys, columns, rows of tables, and
entries of lists.
"""

import gzip
import hashlib
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import polars as pl
import torch
from safetensors.torch import load_file

from helpers.changes import tuned_copy
from helpers.families import tiny
from helpers.forked import Forked
from helpers.jobs import Job, make_job
from helpers.light import TOKENS, WHOLE

RECORD = Path(__file__).with_suffix(".json.gz")
DIGITS = 7
"""Significant digits that the record keeps of each number, beside the digest of all of them as they are."""
ELSEWHERE = 1e-4
"""How far a number may be off on another processor, which rounds otherwise; see `_scale`."""

_PORTABLE = {
    # One thread and the instructions that every x86-64 has: the same bits on any of them, as far as kernels allow.
    "OMP_NUM_THREADS": "1",
    "MKL_CBWR": "COMPATIBLE",
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OPENBLAS_CORETYPE": "Nehalem",
    "HF_HUB_OFFLINE": "1",
}
_NO_RESULTS = {"stages", "model", "checkpoints"}
"""Folders with clocks, and with weights that other files tell."""
_NO_RESULT = {"run.json", "plan.json", "tables.json", "learn-prompts.jsonl"}
"""Clocks and paths; tables whose numbers the Parquet files beside hold; and prompts, which are no results."""
_NOT_COMPARED = ("seconds", "format_version", "bytes", "report_prompts")
"""Clocks and sizes; and a setting that the record does not have, in files that repeat all settings."""
_RECORDED_AS = {"pairs.json": {"learn_text": "text"}, "training.json": {"learn_text": "neutral"}}
"""File → setting that it repeats → its name when the numbers were recorded."""
_TEXTS = {"continuation", "prompt", "prompt_text", "unsuffixed_prompt", "preferred", "dispreferred", "condition"}


@dataclass(frozen=True)
class Artefact:
    """What one file of a run holds."""

    digest: str
    """Of its numbers as they are, and of its texts."""
    values: dict[str, list[float | None]]
    """Place → numbers there, rounded to `DIGITS`."""


@dataclass(frozen=True)
class Found:
    """What one file of a run holds now."""

    values: dict[str, list[Any]]
    """Place → numbers there, and texts where they are results."""
    table: bool
    """Whether the places are columns of a table, each with one value a row."""

    @property
    def artefact(self) -> Artefact:
        """What the record keeps of it."""
        return _artefact(self.values)

    def only(self, wanted: Artefact) -> "Found":
        """Without the places and rows that the record lacks. A row is found again by its numbers, in order."""
        kept = {
            name: values
            for name, values in self.values.items()
            if name in wanted.values or all(isinstance(one, str) for one in values)
        }
        rows = max((len(values) for values in kept.values()), default=0)
        recorded_rows = max((len(values) for values in wanted.values.values()), default=0)
        if self.table and rows > recorded_rows:
            # Of a column of texts with gaps only the gaps are held, so it does not tell rows apart.
            whole = {name: values for name, values in wanted.values.items() if len(values) == recorded_rows}
            places = _again(kept, whole, rows, recorded_rows)
            kept = {
                name: [values[place] for place in places]
                if len(values) == rows
                else _among(values, wanted.values.get(name))
                for name, values in kept.items()
            }
        if not self.table:
            kept = {name: _among(values, wanted.values.get(name)) for name, values in kept.items()}
        return Found(kept, self.table)


def _among(found: list[Any], wanted: list[float | None] | None) -> list[Any]:
    """The recorded numbers of one place, in order, where more stand there now; fewer where one is gone."""
    if wanted is None or len(found) <= len(wanted):
        return found
    left = iter(found)
    return [here for number in wanted for here in [next((one for one in left if _near(one, number)), None)]]


def _again(
    found: Mapping[str, list[Any]], wanted: Mapping[str, list[float | None]], rows: int, recorded_rows: int
) -> list[int]:
    """The first row that has the numbers of each recorded one, after the row of the one before; fewer where one is
    gone."""
    names = [name for name in wanted if name in found]
    places: list[int] = []
    for row in range(recorded_rows):
        after = places[-1] + 1 if places else 0
        place = next(
            (here for here in range(after, rows) if all(_near(found[name][here], wanted[name][row]) for name in names)),
            None,
        )
        if place is None:
            return places
        places.append(place)
    return places


def _near(found: Any, wanted: float | None) -> bool:
    ours = _rounded(found)
    if ours is None or wanted is None:
        return ours == wanted
    return math.isclose(ours, wanted, rel_tol=1e-3, abs_tol=1e-6)


def reproduce(folder: Path) -> Path:
    """The folder of a smoke reproduction, made in another folder by its name, with short texts."""
    _run(folder, ["reproduce", "--preset", "smoke", "--out", "reproduce"], tokens=TOKENS)
    return folder / "reproduce"


def run_jobs(folder: Path, reproduced: Path) -> dict[str, Found]:
    """An edit, a search and an explanation on tiny models, in a new folder, after what `reproduce` made."""
    job = make_job(folder / "job", windows=40)
    tuned_copy(tiny("llama")).save_pretrained(folder / "tuned")
    small = ["--samples", "4", "--min-gap", "0.02", "--epochs", "2", "--search-windows", "10", "--second-scorer"]
    # What was learned from, and every bound, as when the numbers were recorded.
    learned = ["--pairing", "extremes", "--kl-on", "neutral", "--kl-weights", "1"]
    unbounded = ["--max-harmless-increase", "1000", "--max-phrase-rise", "1"]
    searched = ["--split", "halves", "--trials", "12", "--max-logppl-increase", "0.5", *small, *learned, *unbounded]
    shown = ["--direction", "probe", "--toxic-neurons", "8", "--folds", "2", "--seeds", "2", "--steer", "0.1"]
    commands = {
        "edit": ["edit", "job/model", *flags(job, job.flags())],
        "tune": ["tune", "job/model", *flags(job, job.learn_flags()), *searched],
        "explain": ["explain", "job/model", "tuned", *flags(job, job.flags()), *shown],
    }
    for name, arguments in commands.items():
        _run(folder, [*arguments, "--out", name], tokens=WHOLE)
    made = [reproduced, *(folder / name for name in commands)]
    return {f"{one.name}/{place}": found for one in made for place, found in artefacts(one)}


def flags(job: Job, given: list[str]) -> list[str]:
    """Relative paths: what a file says of another must not depend on where the test runs."""
    root = f"{job.model.parent.parent}{os.sep}"
    return [one.removeprefix(root) for one in given]


def portable(arguments: Sequence[object], *, folder: Path, tokens: int = TOKENS) -> Forked:
    """Start the command line in a folder, lightly, with the same bits on any machine."""
    given = {"arguments": [str(one) for one in arguments], "cwd": str(folder), "environment": {}}
    return Forked({"run": "command", "with": given, "light": tokens}, born_with=tuple(_PORTABLE.items()))


def _run(folder: Path, arguments: list[str], *, tokens: int) -> None:
    with portable(arguments, folder=folder, tokens=tokens) as running:
        _, told = running.communicate()
    assert running.returncode == 0, told


def artefacts(folder: Path) -> Iterator[tuple[str, Found]]:
    """The results of a run, file by file."""
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in place.parts)
        if hidden or path.name in _NO_RESULT or set(place.parts[:-1]) & _NO_RESULTS:
            continue
        match path.suffix:
            case ".json":
                found = dict(_of_json(json.loads(path.read_text()), names=_RECORDED_AS.get(path.name, {})))
            case ".jsonl":
                found = dict(_of_json([json.loads(line) for line in path.read_text().splitlines()]))
            case ".parquet":
                found = dict(_of_json(pl.read_parquet(path).to_dict(as_series=False)))
            case ".safetensors":
                found = {name: tensor.double().flatten().tolist() for name, tensor in load_file(path).items()}
            case _:
                continue
        if found:
            yield place.as_posix(), Found(found, path.suffix == ".parquet")


def _artefact(found: Mapping[str, list[Any]]) -> Artefact:
    told = json.dumps(found, sort_keys=True)
    # JSON and Parquet would write NaN; a record of rounded numbers has none of either sign of zero.
    rounded = {
        name: [_rounded(one) for one in values if not isinstance(one, str)]
        for name, values in sorted(found.items())
        if any(not isinstance(one, str) for one in values)
    }
    return Artefact(hashlib.sha256(told.encode()).hexdigest()[:16], rounded)


def _rounded(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else float(f"{value:.{DIGITS - 1}e}") + 0.0


def _of_json(
    value: Any, place: str = "", *, names: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[str, list[Any]]]:
    """Place → numbers, and texts where they are results. Rows of a list are gathered under one place."""
    gathered: dict[str, list[Any]] = {}

    def walk(value: Any, place: str) -> None:
        name = place.rpartition("/")[2]
        if name in _NOT_COMPARED:
            return
        match value:
            case dict():
                for key, inner in value.items():
                    walk(inner, f"{place}/{names.get(key, key)}")
            case list():
                for inner in value:
                    walk(inner, place)
            case bool():
                gathered.setdefault(place, []).append(int(value))
            case int() | float() | None:
                gathered.setdefault(place, []).append(value)
            case str() if name in _TEXTS:
                gathered.setdefault(place, []).append(value)
            case _:
                pass

    walk(value, place)
    yield from gathered.items()


def machine() -> dict[str, str]:
    """On what the same code gives the same bits."""
    model = next((line for line in _lines("/proc/cpuinfo") if line.startswith("model name")), platform.processor())
    flags_ = next((line for line in _lines("/proc/cpuinfo") if line.startswith("flags")), "")
    return {
        "processor": f"{model.partition(':')[2].strip()} {hashlib.sha256(flags_.encode()).hexdigest()[:8]}",
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _lines(path: str) -> list[str]:
    file = Path(path)
    return file.read_text().splitlines() if file.exists() else []


def record(found: Mapping[str, Found]) -> None:
    """Write the record."""
    held = {"machine": machine(), "artefacts": {name: vars(one.artefact) for name, one in found.items()}}
    RECORD.write_bytes(gzip.compress(json.dumps(held, sort_keys=True).encode(), mtime=0))


def recorded() -> tuple[dict[str, str], dict[str, Artefact]]:
    """The machine that made the record, and the artefacts."""
    held = json.loads(gzip.decompress(RECORD.read_bytes()))
    return held["machine"], {name: Artefact(**one) for name, one in held["artefacts"].items()}


def differences(found: Mapping[str, Found], expected: Mapping[str, Artefact], *, exact: bool) -> list[str]:
    """One line per recorded file that is not as recorded; `exact` compares every bit, else to `ELSEWHERE`."""
    lines = [f"{name}: missing" for name in expected if name not in found]
    for name, wanted in expected.items():
        if name not in found:
            continue
        ours = found[name].only(wanted).artefact
        if ours.digest == wanted.digest:
            continue
        worst = _worst(ours.values, wanted.values)
        if exact or worst is None or worst[1] > ELSEWHERE:
            lines.append(
                f"{name}: {'other places or counts' if worst is None else f'{worst[0]} off by {worst[1]:.1e}'}"
            )
    return lines


def _worst(
    found: Mapping[str, list[float | None]], wanted: Mapping[str, list[float | None]]
) -> tuple[str, float] | None:
    """The place that differs most, by its scale; None where shapes differ."""
    if {name: len(row) for name, row in found.items()} != {name: len(row) for name, row in wanted.items()}:
        return None
    worst = ("", 0.0)
    for name, row in wanted.items():
        scale = _scale(name, wanted)
        for ours, theirs in zip(found[name], row, strict=True):
            if (ours is None) != (theirs is None):
                return None
            off = abs(ours - theirs) / scale if ours is not None and theirs is not None else 0.0
            worst = max(worst, (name, off), key=lambda one: one[1])
    return worst


def _scale(place: str, wanted: Mapping[str, list[float | None]]) -> float:
    """The largest number of a place; of a difference from the plain model, that of what it was taken from, if larger.

    A log-perplexity of 6.8 is rounded as one of 6.8, however little it differs from another.
    """
    places = [place]
    if "/difference/" in place:
        before, _, after = place.partition("/difference/")
        places.append(f"{before.replace('/against_none/', '/conditions/')}/{after.partition('/')[0]}/mean")
    return max((abs(one) for name in places for one in wanted.get(name, ()) if one is not None), default=0.0) or 1.0


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        made = run_jobs(Path(scratch), reproduce(Path(scratch)))
    if "--record" in sys.argv[1:]:
        record(made)
    where, held = recorded()
    told = differences(made, held, exact=where == machine())
    sys.stdout.write("\n".join(told) or f"{len(held)} files as recorded\n")
    sys.exit(bool(told))
