"""Commands in several processes: the files are those of one process, and only the first process writes and speaks."""

import json
import time
from itertools import repeat
from pathlib import Path

import pytest

from dposcope.interventions.edit import Edit
from dposcope.processes.group import Processes
from helpers.jobs import Job, command, contents, make_job
from helpers.together import begin_together, command_together, commands_together, ended

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("lighter")]
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
    other = make_job(tmp_path / "other").model
    (other / "model.safetensors").unlink()  # which is seen when it is loaded
    out, bad = tmp_path / "out", f"model:{other}"
    good, failing = (evaluating(job, out, CONDITIONS[0], one) for one in (CONDITIONS[1], bad))
    told = commands_together(out, [good, failing])
    assert [one.code for one in told] == [2, 2]
    assert (told[1].out, told[1].err) == ("", "")
    assert len(told[0].err.splitlines()) == 1
    assert "has no safetensors weights" in told[0].err
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


@pytest.fixture(scope="module")
def searching(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("searching") / "job", windows=40)


def tuning(job: Job, out: Path, *more: object, **given: object) -> list[object]:
    """A command line. Twelve prompts in three batches, ten windows in two."""
    bounds = {"max_logppl_increase": 0.5, "max_harmless_increase": 2.0, "max_phrase_rise": 1.0, "least_relevance": 0.0}
    sizes = {"batch_size": 5, "search_windows": 10, "max_windows": 1, "max_passages": 2}
    flags = job.learn_flags(split="halves", **bounds, **sizes, **given)
    return ["tune", job.model, "--out", out, *flags, "--no-controls", *more]


def searched(folder: Path) -> dict[str, object]:
    """What a search left, but for how long its trials took."""
    told = json.loads((folder / "trials.json").read_text())
    timed = [one | {"seconds": 0} for one in told.pop("trials")]
    kept = {
        name: value
        for name, value in files(folder).items()
        if name not in ("trials.json", "trials.parquet") and not name.startswith("search/")
    }
    return kept | {"trials": timed} | told


def test_a_search_without_learning_is_the_same_bytes_in_two_processes(searching, tmp_path):
    """One process is killed in the midst of its search, and two go on."""
    alone, out = tmp_path / "alone", tmp_path / "out"
    given = {"methods": ["groups", "least-squares"], "trials": 6}
    (one,) = command_together(1, alone, *tuning(searching, alone, **given))
    assert (one.code, one.err) == (0, "")
    asked = tuning(searching, out, **given)
    running = begin_together(out, [asked])
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and sum(map(str.count, _lines(out), repeat('"trial":'))) < 3:
        time.sleep(0.02)
    for process in running:
        process.kill()
    ended(running)
    assert not (out / "trials.json").exists()
    first, second = command_together(2, out, *asked)
    assert [first.code, second.code] == [0, 0], first.err
    assert (second.out, second.err) == ("", "")
    assert "edit: " in first.out
    assert searched(out) == searched(alone)
    assert len(searched(out)["trials"]) == 6


def _lines(out: Path) -> list[str]:
    return [path.read_text() for path in out.glob("search/*/journal.log")]


def test_gains_that_two_processes_learn_are_those_of_one_up_to_rounding(searching, tmp_path):
    """Pairs are the same bytes; a teacher is trained by both, too."""
    given = {"samples": 3, "epochs": 2.0, "pairing": "extremes", "min_gap": 0.02, "kl_weights": 1.0}
    given |= {"teacher": "full", "teacher_strength": 1.0}
    for count in (1, 2):
        out = tmp_path / str(count)
        told = command_together(count, out, *tuning(searching, out, "--quick", **given))
        assert [one.code for one in told] == [0] * count, told[0].err
        assert all((one.out, one.err) == ("", "") for one in told[1:])
    alone, two = (files(tmp_path / str(count)) for count in (1, 2))
    assert alone.keys() == two.keys()
    same = ("pairs.jsonl", "pairs.harmless.jsonl", "learn-prompts.jsonl", "neutral.jsonl", "means.safetensors")
    for name in (*same, "plain-texts.json", "harmless-texts.json"):
        assert alone[name] == two[name]
    gains = [Edit.load(tmp_path / str(count) / "learned-1" / "edit").gains.values for count in (1, 2)]
    # Adam's first steps go by the sign of a gradient, however near to 0.
    moved = (gains[0] - 1).abs().max()
    assert moved > 1e-3
    assert ((gains[1] - gains[0]).abs() > 0.01 * moved).float().mean() < 0.05
    chosen = [json.loads((tmp_path / str(count) / "chosen.json").read_text())["point"] for count in (1, 2)]
    assert chosen[1]["source"] == chosen[0]["source"] == "learned-1"
    assert chosen[1]["strength"] == pytest.approx(chosen[0]["strength"], rel=0.02)


def test_what_tune_does_not_do_in_several_processes_is_refused_at_once(searching, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(Processes, "joined", classmethod(lambda cls, _device: cls(0, 3)))
    told = command(capsys, *tuning(searching, tmp_path / "out"))
    assert (told.code, told.out) == (2, "")
    assert told.err == (
        "dposcope: gains are learned from batches of 8 pairs, which 3 processes cannot share evenly; start 2, 4 or 8\n"
    )
    monkeypatch.setattr(Processes, "here", classmethod(lambda cls: cls(0, 2)))
    told = command(capsys, *tuning(searching, tmp_path / "out", "--join"))
    assert told.err == ("dposcope: --join is for one process beside others; start it without torchrun or accelerate\n")
    assert not (tmp_path / "out").exists()


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
