"""`dposcope reproduce --preset smoke`: the whole study on a tiny random model; its report; what a second call does."""

import json
import os
import random
import shutil
import signal
import time
from functools import cache
from importlib import resources
from pathlib import Path

import polars as pl
import pytest

from dposcope import marks
from dposcope.artefacts import file_digest
from dposcope.errors import DposcopeError
from dposcope.jobs.estimate.explain import interchanged_rows, measured_rows
from dposcope.jobs.explain.claims.claim import VERDICTS
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.opening import open_run
from dposcope.jobs.record import Record
from dposcope.jobs.reporter import Quiet
from dposcope.jobs.reproduce.job import run_reproduce
from dposcope.jobs.reproduce.plan import plan_reproduction
from dposcope.jobs.reproduce.preset import load_preset
from dposcope.jobs.reproduce.settings import ReproduceSettings
from dposcope.reading import read_json, read_object
from dposcope.report.table import StoredTable, Table
from helpers.jobs import blank, command, contents
from helpers.unchanged import portable

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("light")]

STEPS = [
    "tiny/pairs-sampled",
    "tiny/dpo-sampled",
    "tiny/explain-sampled-strict",
    "tiny/explain-sampled-reference",
    "tiny/pairs-pplm",
    "tiny/dpo-pplm",
    "tiny/explain-pplm-strict",
]
PAPER_TABLES = {1, 2, 3, 5, 6, 8, 9, 11, 12, 13, 14, 15, 16, 17, 18, 19}
"""Of the paper's tables that the SPEC lists; 9 holds 10's λ."""
NO_ROWS = {"table-06-anti-toxic-examples", "table-14-toxic-vectors", "table-15-anti-toxic-vectors"}
"""No vector of a random model promotes a listed token, so these may be empty."""
_SHARE = "share of tuning's reduction"
NOTHING_TO_SHOW = {
    "table-01-direction": {"rank"},
    "table-02-interventions": {_SHARE},
    "table-03-toxic-neurons": {_SHARE, "by the judge"},
    "table-19-interventions": {_SHARE},
    "interchange": {"frozen at means (paper): share", "interchange: share", "interchange, by the judge"},
}
"""Columns that may be: the direction is no value vector, and a random model's reduction cannot be told from 0."""
PAPER_FIGURES = {"01", "02a", "02b", "02c", "03", "04", "05", "07a", "07b", "08"}
"""6 is 2 for the other models."""


class Noting(Quiet):
    """What a reporter heard."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.loaded: list[str] = []

    def stage(self, title: str) -> None:
        self.made.append(title)

    def reused(self, title: str) -> None:
        self.loaded.append(title)


KILLS = int(os.environ.get("DPOSCOPE_KILLS", "2"))
"""Published with 10."""


@pytest.fixture
def inside(reproduced, monkeypatch) -> Path:
    """The finished folder by the name that it was made with, which its files name."""
    monkeypatch.chdir(reproduced.parent)
    return Path(reproduced.name)


def test_every_step_is_done(inside):
    planned = plan_reproduction([], inside, load_preset("smoke"), ReproduceSettings())
    assert [one.name for one in planned] == read_object(inside / "plan.json")["steps"] == STEPS
    assert all(one.done for one in planned)


def test_one_changed_byte_in_any_file_of_any_step_is_noticed(inside, tmp_path, monkeypatch):
    """But for what is rewritten at every start, and what no run needs any more: the report over all, a checkpoint.

    Records, and files that are as they were, are read once.
    """
    out = tmp_path / "out"
    digest_of = cache(file_digest)  # of the files that are as they were
    changed: set[Path] = set()
    monkeypatch.setattr(marks, "file_digest", lambda one: (file_digest if one in changed else digest_of)(one))
    monkeypatch.setattr(Record, "read", staticmethod(cache(Record.read)))
    shutil.copytree(inside, out)
    steps = [one.step for one in plan_reproduction([], out, load_preset("smoke"), ReproduceSettings())]
    seen = 0
    for file in sorted(path for path in (out / "tiny").rglob("*") if path.is_file()):
        name = file.relative_to(out).as_posix()
        if file.name in (".lock", "run.json") or "/stages/" in name or name.startswith("tiny/model/"):
            continue
        owner = next(one for one in steps if file.is_relative_to(one.folder))
        whole = file.read_bytes()
        file.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
        changed.add(file)
        try:
            noticed = not owner.finished(raw=False)
        except DposcopeError:  # facts beside pairs that are no JSON any more
            noticed = name.endswith("pairs/pairs.json")
        assert noticed, name
        file.write_bytes(whole)
        changed.remove(file)
        seen += 1
    changed |= {path for path in out.rglob("*") if path.is_file()}
    assert all(step.finished(raw=False) for step in steps), "all as it was"
    assert seen > 300


@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_every_table_and_figure_of_the_paper_is_there(inside, protocol):
    folder = inside / f"tiny/sampled/explain-{protocol}"
    tables = [Table.from_json(one) for one in read_json(folder / "tables.json", list[StoredTable])]
    assert {int(one.name.split("-")[1]) for one in tables if one.name.startswith("table-")} >= PAPER_TABLES
    for one in tables:
        empty = set(blank(one))
        assert empty <= NOTHING_TO_SHOW.get(one.name, set(one.head) if one.name in NO_ROWS else set()), one.name
        assert pl.read_parquet(folder / f"tables/{one.name}.parquet").height > 0 or one.name in NO_ROWS
    figures = {path.stem.split("-")[1] for path in (folder / "figures").glob("figure-*.svg")}
    assert figures == PAPER_FIGURES
    for name in ("claims", "change", "subspace-conflicts"):
        assert (folder / f"tables/{name}.parquet").exists()


def test_the_tables_over_all_runs(inside):
    found = pl.read_parquet(inside / "tables/findings.parquet")
    assert found.select("model", "study", "protocol").rows() == [
        ("tiny", "sampled", "strict"),
        ("tiny", "sampled", "reference"),
        ("tiny", "pplm", "strict"),
    ]
    for row in found.iter_rows(named=True):
        folder = inside / f"tiny/{row['study']}/explain-{row['protocol']}"
        scores = read_object(folder / "scores.json")["conditions"]
        for measure in ("toxicity", "judge", "logppl", "f1", "repetition"):
            assert row[f"{measure}_before"] == scores["none"][measure]["mean"]
            assert row[f"{measure}_after"] == scores["tuned"][measure]["mean"]
        assert row["reducing"] == read_object(folder / "explain.json")["reducing"]
    assert (found["logppl_before"] != found["logppl_after"]).any(), "tuning changed nothing: this tests too little"
    claims = pl.read_parquet(inside / "tables/claims-over-runs.parquet")
    assert set(claims["verdict"]) <= {*VERDICTS, "not testable"}
    for row in claims.filter(pl.col("verdict") != "not testable").iter_rows(named=True):
        single = read_object(inside / f"tiny/{row['study']}/explain-{row['protocol']}/explain.json")["claims"]
        kept = ("section", "claim", "verdict", "here", "measured", "value", "low", "high")
        assert [row[name] for name in kept] in [[one[name] for name in kept] for one in single]
        own = pl.read_parquet(inside / f"tiny/{row['study']}/explain-{row['protocol']}/tables/claims.parquet")
        assert own.filter(pl.col("claim") == row["claim"]).select(kept).rows() == [tuple(row[name] for name in kept)]
    assert claims["value"].is_not_null().any()


def test_the_plan_counts_what_is_measured(inside):
    for planned in plan_reproduction([], inside, load_preset("smoke"), ReproduceSettings()):
        if isinstance(planned.step.settings, ExplainSettings):
            measured = read_object(planned.step.folder / "scores.json")["conditions"]
            live = [name for name in measured if name.startswith("interchange-")]
            # A random vocabulary may have no toxic token, and a group no neuron.
            paper = len(measured) - len(live)
            assert paper <= measured_rows(planned.step.settings) <= paper + 2
            # Without texts of both kinds no neurons are ranked: twelve sets and one in reverse fewer.
            assert 0 <= interchanged_rows(planned.step.settings) - len(live) <= 13 + 3


def test_the_report_links_to_every_run_and_has_both_protocols(inside):
    page = (inside / "report.html").read_text("utf-8")
    for step in STEPS:
        if "explain" in step:
            _, study, protocol = step.split("-")
            assert f'href="tiny/{study}/explain-{protocol}/report.html"' in page
    assert 'id="protocol-strict"' in page
    assert 'id="protocol-reference"' in page


def test_a_second_call_does_nothing_again(inside):
    before = {path: path.stat().st_mtime_ns for path in inside.rglob("*") if path.is_file() and "tiny" in path.parts}
    reporter = Noting()
    run_reproduce([], inside, load_preset("smoke"), ReproduceSettings(), reporter=reporter)
    assert reporter.made == ["Report over all"]
    assert len(reporter.loaded) == len(STEPS)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_what_one_explanation_measured_of_the_plain_model_another_takes(inside):
    """The second study has another tuned model; direction, means and the plain model are those of the first."""
    first, second = (inside / f"tiny/{study}/explain-strict" for study in ("sampled", "pplm"))
    for stage in ("direction", "means", "judge", "measure-none", "measure-steer-0.1"):
        records = [(folder / f"stages/{stage}.json").read_bytes() for folder in (first, second)]
        assert records[0] == records[1], "made twice: the clock differs"
    assert (first / "stages/measure-tuned.json").read_bytes() != (second / "stages/measure-tuned.json").read_bytes()


def test_reports_are_rendered_again_without_a_model(inside, tmp_path, capsys, monkeypatch):
    page = (inside / "report.html").read_text("utf-8")
    monkeypatch.setattr("dposcope.model.load.load", None)
    told = command(capsys, "report", inside)
    assert told.code == 0
    assert (inside / "report.html").read_text("utf-8") == page
    runs = [inside / f"tiny/{study}/explain-strict" for study in ("sampled", "pplm")]
    assert command(capsys, "report", *runs, "--out", tmp_path / "two").code == 0
    assert pl.read_parquet(tmp_path / "two/tables/findings.parquet").height == 2
    told = command(capsys, "report", *runs)
    assert (told.code, "give --out" in told.err) == (2, True)
    told = command(capsys, "report", *runs, "--out", runs[0])
    assert (told.code, "would replace" in told.err) == (2, True)
    told = command(capsys, "report", tmp_path)
    assert (told.code, "holds no finished explanation" in told.err) == (2, True)


def test_the_plan_is_shown_and_nothing_written(tmp_path, capsys):
    told = command(capsys, "reproduce", "--preset", "smoke", "--out", tmp_path / "new", "--dry-run")
    assert told.code == 0
    assert all(step.rpartition("-")[2] in told.out for step in STEPS)
    assert not (tmp_path / "new").exists()
    text = tmp_path / "text.txt"  # with a prompt for each of its pairs by PPLM
    text.write_text(
        "\n\n".join(
            f"In the year {year} a man and his old dog walked slowly along the bank of the river, and they came home "
            "late in the evening of a warm day in the summer."
            for year in range(1000, 2600)
        )
    )
    preset = ("--preset", "cpu-gemma-3-270m", "--learn-text", text)
    told = command(capsys, "reproduce", *preset, "--out", tmp_path / "new", "--dry-run", "--json")
    plan = json.loads(told.out)
    assert len(plan) == 7
    assert all(step["seconds"] > 1 and step["memory"] > 5e8 and not step["done"] for step in plan)


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys):
    out = tmp_path / "new"
    columns = tmp_path / "columns.csv"
    columns.write_text("text,label\nrain falls,1\n")
    for arguments, said in (
        (["--preset", "smoke", "--comments", str(columns)], "choose with --text-column and --label-column"),
        (["--preset", "nothing"], "no preset 'nothing'"),
        (["--preset", "paper-gpt2-medium"], "has no --comments of its own"),
        (["a/model", "b/model", "--preset", "smoke"], "would share one folder"),
        (["--preset", "smoke", "--batch-size", "0"], "batch-size"),
        (["--preset", "smoke", "--passages", "nothing.csv"], "there is no file nothing.csv"),
        ([str(tmp_path / "no-model"), "--preset", "smoke"], "is not a model"),
    ):
        for dry in ([], ["--dry-run"]):
            told = command(capsys, "reproduce", *arguments, "--out", out, *dry)
            assert (told.code, told.out) == (2, ""), (arguments, dry)
            assert said in told.err
            assert told.err.count("\n") == 1
    assert not out.exists()


def test_a_plan_is_of_a_folder_that_it_may_have(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    told = command(capsys, "reproduce", "--preset", "smoke", "--out", tmp_path, "--dry-run")
    assert (told.code, told.out) == (2, "")
    assert "holds files that are not a run's" in told.err


def test_columns_of_ones_own_reach_every_step(tmp_path):
    settings = ReproduceSettings(
        prompts="p.csv", comments="c.csv", passages="e.csv",
        prompt_column="start", text_column="said", label_column="rude", positive_label="yes",
        passage_prompt_column="begins", passage_gold_column="ends",
    )  # fmt: skip
    planned = plan_reproduction([], tmp_path, load_preset("smoke"), settings)
    steps = {one.step.command: one.step.settings for one in planned}
    explain, pairs = steps["explain"], steps["pairs"]
    assert (explain.prompt_column, explain.text_column, explain.label_column) == ("start", "said", "rude")
    assert explain.positive_label == "yes"
    assert (explain.passage_prompt_column, explain.passage_gold_column) == ("begins", "ends")
    assert (pairs.text_column, pairs.label_column) == ("said", "rude")


def test_two_processes_do_not_share_a_folder(tmp_path):
    with (
        open_run(tmp_path / "out", "reproduce", {"preset": "smoke"}),
        pytest.raises(DposcopeError, match="another process is working in"),
    ):
        run_reproduce([], tmp_path / "out", load_preset("smoke"), ReproduceSettings())


def stage_records(folder: Path) -> int:
    """How many stages are on record, also while checkpoints come and go in the folders that are walked."""
    while True:
        try:
            return len(list(folder.rglob("stages/*.json")))
        except FileNotFoundError:
            continue


def test_killed_at_any_moment_it_ends_with_the_same_artefacts(reproduced, tmp_path):
    """SIGKILL at random moments; every file that has no clock is the same.

    Of the whole only the first study, in one protocol; its report is that over the same part of the finished folder.
    """
    part = tmp_path / "part.toml"
    beginning, _, _ = (
        (resources.files("dposcope") / "jobs/reproduce/presets/smoke.toml").read_text().rpartition("[[study]]")
    )
    part.write_text(beginning.replace(', "reference"]', "]"))
    command = ("reproduce", "--preset", part, "--out", "reproduce")
    out, whole = tmp_path / "killed/reproduce", tmp_path / "whole"
    out.parent.mkdir()
    shutil.copytree(reproduced, whole / "reproduce")
    shutil.rmtree(whole / "reproduce/tiny/pplm")
    shutil.rmtree(whole / "reproduce/tiny/sampled/explain-reference")
    with portable(command, folder=whole) as once:
        _, err = once.communicate()
    assert once.returncode == 0, err
    finished = whole / "reproduce"
    records = stage_records(finished)
    moments = sorted(random.Random(7).sample(range(records - 2), KILLS))
    killed = 0
    for moment in moments:
        with portable(command, folder=out.parent) as running:
            while running.poll() is None and (done := stage_records(out)) <= moment:
                time.sleep(0.02)
            running.kill()
        killed += running.returncode == -signal.SIGKILL and moment < done < records
    assert killed == KILLS, "it was too quick to be killed in the middle"
    with portable(command, folder=out.parent) as last:
        _, err = last.communicate()
    assert last.returncode == 0, err
    found, expected = (
        {name: data for name, data in contents(folder).items() if "stages/" not in name and ".lock" not in name}
        for folder in (out, finished)
    )
    for folder in (found, expected):  # the whole one was planned for more
        for name in ("plan.json", "run.json"):
            folder.pop(name)
    assert {name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)} == set()
