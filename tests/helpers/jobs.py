"""A tiny job on disk: a random model saved as a checkpoint, and data files that its tokenizer can read."""

import contextlib
import csv
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dposcope.report.table import Table
from helpers.families import CIVIL, RUDE, TEXTS, tiny
from helpers.forked import Forked, environment

PROMPTS, COMMENTS, PASSAGES = 24, 120, 6


def softness(texts: Sequence[str]) -> np.ndarray:
    """A scorer named `jobs:softness`: the share of some letters, so that random texts differ in it."""
    return np.array([sum(letter in "aeious" for letter in text) / max(len(text), 1) for text in texts])


def always_toxic(texts: Sequence[str]) -> np.ndarray:
    """A scorer by which nothing is harmless."""
    return np.full(len(texts), 0.75)


@dataclass(frozen=True)
class Job:
    """Where the parts of a tiny job lie."""

    model: Path
    prompts: Path
    comments: Path
    neutral: Path
    passages: Path

    def settings(self, **others) -> dict:
        """Keyword arguments for `EditSettings` and `EvaluateSettings`: float32, small, and no download."""
        given = {
            "prompts": str(self.prompts),
            "comments": str(self.comments),
            "neutral": str(self.neutral),
            "passages": str(self.passages),
            "scorer": "helpers.jobs:softness",
            "also_score": ["none"],
            "dtype": "float32",
            "device": "cpu",
            "max_windows": 3,
            **others,
        }
        return {name: value for name, value in given.items() if value is not None}

    def learning(self, **others) -> dict:
        """The same for `TuneSettings`: the neutral text is learned from, and its last fifth is measured on."""
        return self.settings(**{"learn_text": str(self.neutral), "neutral": None, **others})

    def flags(self, **others) -> list[str]:
        """The settings for the command line."""
        return self._flags(self.settings(**others))

    def learn_flags(self, **others) -> list[str]:
        """Those of `learning` for the command line."""
        return self._flags(self.learning(**others))

    def _flags(self, settings: dict) -> list[str]:
        given = {name: value if isinstance(value, list) else [value] for name, value in settings.items()}
        return [
            part
            for name, values in given.items()
            for one in values
            for part in (f"--{name.replace('_', '-')}", str(one))
        ]


def make_job(folder: Path, family: str = "llama", *, seed: int = 0, windows: int = 12) -> Job:
    """Write a tiny job into `folder`.

    Args:
        folder: where to.
        family: of the model, see `families`.
        seed: of the texts.
        windows: about how many windows of 128 tokens the neutral text has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    words = sorted({word.strip(".,?!") for text in TEXTS for word in text.split()})
    rude, civil = ({word for text in part for word in text.split()} for part in (RUDE, CIVIL))
    lm = tiny(family)
    lm.save_pretrained(folder / "model")

    def sentence(pool: Sequence[str], low: int, high: int) -> str:
        return " ".join(draw.choice(pool) for _ in range(draw.randint(low, high)))

    job = Job(*(folder / name for name in ("model", "prompts.jsonl", "comments.csv", "neutral.txt", "passages.csv")))
    write_jsonl(job.prompts, [{"prompt": sentence(words, 2, 9)} for _ in range(PROMPTS)])
    pools = {1: sorted(rude), 0: sorted(civil)}
    write_csv(
        job.comments,
        ["comment_text", "toxic"],
        [[sentence([*pools[label], *words[:6]], 3, 9), label] for label in [1, 0, 0, 1] * (COMMENTS // 4)],
    )
    job.neutral.write_text("\n".join(sentence(words, 6, 12) for _ in range(windows * 6)) + "\n", encoding="utf-8")
    write_csv(
        job.passages, ["prompt", "gold"], [[sentence(words, 3, 8), sentence(words, 8, 12)] for _ in range(PASSAGES)]
    )
    return job


def write_jsonl(path: Path, rows: Sequence[dict]) -> Path:
    """One object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    """A table with a header."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def blank(table: Table) -> list[str]:
    """Columns of a table in which nothing stands; all of them where it has no rows."""
    columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.head)
    return [name for name, cells in zip(table.head, columns, strict=True) if set(cells) <= {"–", ""}]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@dataclass(frozen=True)
class Told:
    """What a command said."""

    code: int
    out: str
    err: str


def command(capsys, *arguments: object) -> Told:
    """Run the command line in this process."""
    from dposcope.cli import main

    capsys.readouterr()
    code = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    told = capsys.readouterr()
    return Told(code, told.out, told.err)


def refused(script: Callable[[], None], *arguments: object) -> str:
    """What the command of a benchmark, run here, says on the error stream as it refuses."""
    said, told, given = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["benchmark", *map(str, arguments)]
    try:
        with (
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(told),
            pytest.raises(SystemExit) as stop,
        ):
            script()
    finally:
        sys.argv = given
    assert (stop.value.code, told.getvalue()) == (2, "")
    return said.getvalue()


def process(
    *arguments: object,
    cwd: Path | None = None,
    terminal: int | None = None,
    person: bool = False,
    **environment: str,
) -> Forked:
    """Start the command line as a process of its own, with this folder's modules within reach; see `Forked`."""
    options = {"arguments": [str(one) for one in arguments], "cwd": str(cwd or Path.cwd())}
    order = {"run": "command", "with": {**options, "environment": environment}}
    return Forked(order, terminal=terminal, person=person)


def script(path: Path, *arguments: object, ignored: Sequence[str] = (), **environment: str) -> Forked:
    """Start a program of a benchmark or a helper as a process of its own; its warnings are errors but for `ignored`."""
    options = {"path": str(path), "arguments": [str(one) for one in arguments], "ignored": list(ignored)}
    return Forked({"run": "script", "with": {**options, "environment": environment}})


def crashes(what: str, *, born_with: tuple[tuple[str, str], ...] = (), **options) -> list[dict]:
    """Tries in processes of their own: `killed`, `space`, `refused` or `unconnected`, see `forked_server.py`."""
    with Forked({"run": "crashes", "with": {"what": what, "options": options}}, born_with=born_with) as running:
        out, err = running.communicate()
    assert running.returncode == 0, err[-2000:]
    return json.loads(out)


def interpreter(*arguments: object, **options) -> subprocess.Popen:
    """The command line in a new interpreter, for what is about its beginning and its end."""
    return subprocess.Popen(
        [sys.executable, "-c", "from dposcope.cli import main; main()", *map(str, arguments)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
