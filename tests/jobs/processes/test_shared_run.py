"""Commands in several processes: the files are those of one process, and only the first process writes and speaks."""

import json
from pathlib import Path

import pytest

from helpers.jobs import Job, command, contents, make_job
from helpers.together import command_together, commands_together

pytestmark = pytest.mark.slow
CONDITIONS = ("scale:alpha=0.3,beta=0.55", "ablate:weight=1")


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("together") / "job")


def evaluating(job: Job, out: Path, *conditions: str) -> list[object]:
    """A command line. Seven batches of prompts, three windows: more than some have processes, fewer than others."""
    flags = job.flags(batch_size=2, limit=14, max_passages=3)
    return ["evaluate", job.model, "--out", out, *flags, *(part for one in conditions for part in ("--condition", one))]


def files(folder: Path) -> dict[str, bytes]:
    """What a run left but for how long it took."""
    return {
        name: value
        for name, value in contents(folder).items()
        if name not in ("run.json", ".lock") and not name.startswith("stages/")
    }


@pytest.fixture(scope="module")
def alone(job, tmp_path_factory) -> Path:
    """What one process makes."""
    out = tmp_path_factory.mktemp("alone") / "scores"
    assert [one.code for one in command_together(1, out, *evaluating(job, out, *CONDITIONS))] == [0]
    return out


def test_evaluate_gives_the_same_bytes_in_two_and_in_four_processes(job, alone, tmp_path):
    for count in (2, 4):
        first, *others = command_together(count, tmp_path, *evaluating(job, tmp_path / str(count), *CONDITIONS))
        assert (first.code, first.err) == (0, "")
        assert f"scores:  {tmp_path / str(count) / 'scores.json'}" in first.out.replace("\n", "")
        assert [(one.code, one.out, one.err) for one in others] == [(0, "", "")] * (count - 1)
        assert files(tmp_path / str(count)) == files(alone)
        ran = json.loads((tmp_path / str(count) / "run.json").read_text())
        assert ran["prompts"] == json.loads((alone / "run.json").read_text())["prompts"]
    again = command_together(2, alone, *evaluating(job, alone, *CONDITIONS))  # all is there
    assert [one.code for one in again] == [0, 0]


def test_what_a_failed_run_left_is_gone_on_from_with_another_number(job, alone, tmp_path):
    out, bad = tmp_path / "out", f"model:{make_job(tmp_path / 'other', 'gpt2').model}"
    good, failing = (evaluating(job, out, CONDITIONS[0], one) for one in (CONDITIONS[1], bad))
    told = commands_together(out, [good, failing])
    assert [one.code for one in told] == [2, 2]
    assert (told[1].out, told[1].err) == ("", "")
    assert len(told[0].err.splitlines()) == 1
    assert "differ in architecture (llama and gpt2)" in told[0].err
    assert (out / "conditions" / "none.json").exists()
    assert not (out / "scores.json").exists()
    told = command_together(3, out, *good)
    assert [one.code for one in told] == [0, 0, 0], told[0].err
    assert files(out) == files(alone)


def test_a_folder_that_is_taken_is_refused_in_one_line(job, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    told = command_together(2, tmp_path, *evaluating(job, tmp_path / "out"))
    assert [one.code for one in told] == [2, 2]
    assert [len(one.err.splitlines()) for one in told] == [1, 0]
    assert list(contents(tmp_path / "out")) == ["letter.txt"]


def test_servers_are_asked_by_one_process(job, tmp_path, capsys, monkeypatch):
    from dposcope.processes.group import Processes

    monkeypatch.setattr(Processes, "joined", classmethod(lambda cls, _device: cls(0, 2)))
    asked = [*evaluating(job, tmp_path / "out"), "--engine", "openai", "--base-url", "http://localhost:9/v1"]
    told = command(capsys, *asked)
    assert (told.code, told.out) == (2, "")
    assert told.err == ("dposcope: --engine openai works in one process; start it without torchrun or accelerate\n")


def test_pairs_are_the_same_bytes_in_two_processes(job, tmp_path):
    given = {
        **{"method": "sample", "prompts": job.prompts, "use": "all", "samples": 2, "pairing": "extremes"},
        **{"min_gap": 0.05, "count": 9, "scorer": "helpers.jobs:softness", "dtype": "float32", "device": "cpu"},
    }
    flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    for count in (1, 2):
        out = tmp_path / str(count) / "pairs.jsonl"
        out.parent.mkdir()
        told = command_together(count, tmp_path, "pairs", job.model, "--out", out, *flags)
        assert [(one.code, one.err) for one in told] == [(0, "")] * count
        assert all(not one.out for one in told[1:])
    assert contents(tmp_path / "1").keys() == contents(tmp_path / "2").keys()
    assert contents(tmp_path / "1")["pairs.jsonl"] == contents(tmp_path / "2")["pairs.jsonl"]
    facts = [json.loads((tmp_path / str(count) / "pairs.json").read_text()) for count in (1, 2)]
    assert facts[0]["left_out"] == facts[1]["left_out"]
    assert facts[0]["statistics"] == facts[1]["statistics"]


def test_an_edit_is_the_same_bytes_in_two_processes(job, tmp_path):
    flags = job.flags(batch_size=2, limit=14, max_passages=3, max_windows=1)
    for count in (1, 2):
        out = tmp_path / str(count)
        told = command_together(count, tmp_path, "edit", job.model, "--out", out, *flags)
        assert [(one.code, one.err) for one in told] == [(0, "")] * count
    assert files(tmp_path / "1") == files(tmp_path / "2")


def test_an_explanation_is_the_same_bytes_in_two_processes(job, tmp_path):
    flags = job.flags(batch_size=2, limit=14, max_passages=3, max_windows=1)
    edit = ["--alpha", "0.5", "--out", tmp_path / "edit", *flags]
    assert [one.code for one in command_together(1, tmp_path, "edit", job.model, *edit)] == [0]
    few = ["--neurons-only", "--seeds", "0", "--toxic-neurons", "4"]
    for count in (1, 2):
        asked = ["explain", job.model, tmp_path / "edit", "--out", tmp_path / str(count), *flags, *few]
        told = command_together(count, tmp_path, *asked)
        assert [(one.code, one.err) for one in told] == [(0, "")] * count
    assert files(tmp_path / "1") == files(tmp_path / "2")
