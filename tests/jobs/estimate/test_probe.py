"""What a probe reads is counted before it starts."""

import pytest

from dposcope.jobs.estimate.probe import probe_work
from dposcope.jobs.settings import ProbeSettings
from helpers.jobs import command, make_job
from helpers.tokens_counted import count_tokens


@pytest.mark.parametrize("kind", ["probe", "mean-difference"])
def test_its_tokens_are_those_of_the_run(kind, capsys, monkeypatch, tmp_path):
    job = make_job(tmp_path / "job")
    settings = ProbeSettings(kind=kind, comments=str(job.comments), direction_rows=50, device="cpu", dtype="float32")
    work = probe_work(str(job.model), tmp_path / "toxic", settings)
    seen = count_tokens(monkeypatch)
    given = ["--kind", kind, "--comments", job.comments, "--direction-rows", "50", "--device", "cpu"]
    told = command(capsys, "probe", job.model, *given, "--dtype", "float32", "--out", tmp_path / "toxic")
    assert told.code == 0
    assert sum(one.read for one in work.stages) == seen.read > 0
    assert sum(one.written for one in work.stages) == seen.written == 0
