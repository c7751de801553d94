"""The benchmark of PPLM's strength: a whole sweep on a tiny model, and one that goes on."""

from pathlib import Path

import pytest

from dposcope.evaluation.statistics.intervals import Estimate
from dposcope.reading import read_object
from helpers.jobs import make_job, script

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_a_sweep_has_a_row_for_each_setting_and_goes_on(tmp_path):
    job, out = make_job(tmp_path / "job", windows=24), tmp_path / "out"
    command = [
        *(BENCHMARKS / "pplm_strength.py", "--model", str(job.model)),
        *("--learn-text", str(job.neutral), "--comments", str(job.comments), "--dtype", "float32"),
        *("--steps", "0.2,0.5", "--fusions", "1", "--count", "8", "--out", str(out)),
    ]
    first = script(*command)
    told, complaint = first.communicate()
    assert first.returncode == 0, complaint
    head, _, *rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in told.splitlines()]
    assert [row[:3] for row in rows] == [["0.2", "1", "8"], ["0.5", "1", "8"]]
    for row, step in zip(rows, ("0.2", "0.5"), strict=True):
        about = read_object(out / f"step-{step}-fusion-1.json")
        assert (about["settings"]["step_size"], about["settings"]["seed"]) == (float(step), 1)
        found = about["statistics"]["scores"]
        assert row[head.index("toxicity, greedy")] == str(Estimate.from_dict(found["preferred"]))
        assert row[head.index("pushed")] == str(Estimate.from_dict(found["dispreferred"]))
    assert (out / "strength.svg").is_file()
    made = {path: path.stat().st_mtime_ns for path in out.glob("*.jsonl")}
    assert script(*command).communicate()[0] == told
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.jsonl")} == made
