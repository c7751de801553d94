"""The how-to for one's own concept: its lines are run as they stand, on a tiny model."""

import contextlib
import io
import json
import random
import re
from pathlib import Path

import pytest

from helpers.families import TEXTS
from helpers.jobs import Job, command, make_job, write_csv

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "own-concept.md"
WET, DRY = ["rain fell", "wet grey clouds", "the rain", "a wet day"], ["the old cat", "many hills", "kind words"]


def block(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """What the page takes for granted: texts, prompts, a list of words, in the working folder."""
    draw = random.Random(0)
    rows = [
        [f"{' '.join(draw.choices(kinds, k=2))} {number}", label]
        for number in range(30)
        for label, kinds in ((1, WET), (0, DRY))
    ]
    write_csv(tmp_path / "texts.csv", ["text", "rainy"], rows)
    (tmp_path / "prompts.txt").write_text("".join(f"{text}\n" for text in TEXTS), "utf-8")
    (tmp_path / "rain.txt").write_text("rain\nwet\ncloud\n", "utf-8")
    (tmp_path / "rain.toml").write_text(block("toml"), "utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("language", ["toml", "python"])
def test_it_takes_fewer_than_fifteen_lines(language):
    lines = [line for line in block(language).splitlines() if line.strip()]
    assert len(lines) < 15


def test_the_file_is_all_that_the_command_needs(job, folder, capsys):
    told = command(
        capsys, "edit", job.model, "--concept", "rain.toml", "--out", folder / "out", "--alpha", "0.3", "--quiet",
        "--dtype", "float32", "--max-windows", "1", "--max-passages", "2",
    )  # fmt: skip
    assert told.code == 0, told.err
    scores = json.loads((folder / "out" / "scores.json").read_text("utf-8"))
    assert scores["concept"] == "rain talk"
    assert scores["conditions"]["none"]["toxicity"]["n"] == (len(TEXTS) + 1) // 2
    assert "rain talk" in told.out
    settings = json.loads((folder / "out" / "run.json").read_text("utf-8"))["settings"]
    assert settings["scorer"] == "words:rain.txt"


def test_the_python_runs(job, folder):
    lines = block("python").replace('"gemma-3-270m"', repr(str(job.model)) + ', dtype="float32"')
    lines = lines.replace("ds.load_passages(None)", "ds.load_passages(None, limit=2)")
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(lines, str(PAGE), "exec"), {})
    assert re.fullmatch(
        r"[+−]?\d\.\d{3} \((n = \d, no interval|[+−]?\d\.\d{3} to [+−]?\d\.\d{3})\)", shown.getvalue().strip()
    )


def test_every_built_in_concept_is_on_the_page():
    from dposcope.data.concept import BUILTIN_CONCEPTS

    for name in BUILTIN_CONCEPTS:
        assert f"| `{name}`" in PAGE.read_text("utf-8")
