"""The benchmark of how few neurons carry an edit: what it keeps, and a whole run on a tiny model."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import dposcope as ds
from dposcope.artefacts import write_json
from dposcope.data.prompts import load_prompts, split_prompts
from dposcope.errors import DposcopeError
from dposcope.evaluation.statistics.intervals import Difference, Estimate, Share
from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.model.generate import generate
from dposcope.reading import read_object
from helpers.jobs import make_job, refused, script, softness
from helpers.light import TOKENS
from helpers.preferences import pairs_file

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from sparse import Point, curve, frame, main, table, training

pytestmark = pytest.mark.usefixtures("light")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def point(way: str, neurons: int, share: Share | None) -> Point:
    return Point(way, neurons, share, Estimate(0.1, 0.05, 0.2, 9), Difference(0.01, 0.0, 0.02, 9), Estimate(0, 0, 0, 9))


def test_a_share_that_means_nothing_is_a_dash_and_no_point():
    points = [point("kept", 10, None), point("kept", 100, Share(0.5, 0.4, 0.6, 9)), point("learned again", 10, None)]
    rows = table(points).splitlines()[2:]
    assert [row.split(" | ")[2] for row in rows] == ["–", "50.0 % (40.0–60.0)", "–"]
    assert frame(points)["share_low"].to_list() == [None, 0.4, None]
    above = curve(points).axes[0]
    assert next(list(line.get_xdata()) for line in above.lines if len(line.get_xdata())) == [100]
    assert [label.get_text() for label in curve(points).axes[1].get_xticklabels()] == ["10", "100"]


def test_lines_end_at_the_whole_and_labels_stand_apart():
    half, full = Share(0.5, 0.4, 0.6, 9), Share(1.0, 1.0, 1.0, 9)
    points = [point("kept", 10, half), point("random ones learned again", 9, half), point("all gains", 100, full)]
    points.append(replace(point("penalty", 20, half), penalty=0.3))
    above, below = curve(points).axes
    drawn = [list(line.get_xdata()) for line in above.lines]
    assert [10, 100] in drawn
    assert [20, 100] in drawn
    assert [9] in drawn
    assert [label.get_text() for label in below.get_xticklabels()] == ["10", "100"]
    assert [row.split(" | ")[1] for row in table(points).splitlines()[2:]] == [
        *("kept", "random ones learned again", "all gains", "penalty, μ = 0.3")
    ]


@pytest.mark.slow
def test_a_whole_run_and_one_that_goes_on(tmp_path):
    job = make_job(tmp_path / "job", windows=24)
    pairs, learned = pairs_file(tmp_path / "pairs.jsonl"), tmp_path / "run"
    settings = DpoSettings(
        pairs=str(pairs), learn_text=str(job.neutral), train="gains", max_examples=24, kl_weight=2.0, decay="linear"
    )
    run_dpo(str(job.model), learned, settings.model_copy(update={"dtype": "float32"}))
    out = tmp_path / "out"
    command = [
        *(BENCHMARKS / "sparse.py", str(learned)),
        *("--prompts", str(job.prompts), "--comments", str(job.comments), "--passages", str(job.passages)),
        *("--neutral", str(job.neutral), "--scorer", "helpers.jobs:softness", "--dtype", "float32"),
        *(
            "--numbers",
            "20",
            "--random",
            "20",
            "--penalties",
            "0.3",
            "--strength",
            "2",
            "--max-windows",
            "3",
            "--out",
            str(out),
        ),
    ]
    first = script(*command)
    told_first, complaint = first.communicate()
    assert first.returncode == 0, complaint
    found = pl.read_csv(out / "sparse.csv")
    held, whole = (len(ds.Edit.load(stem / "edit").gains.touched) for stem in (out / "penalty-0.3", learned))
    assert 0 < held < whole
    assert {way: own["neurons"].to_list() for (way,), own in found.group_by("way")} == {
        "kept": [20],
        "learned again": [20],
        "random ones learned again": [20],
        "penalty": [held],
        "all gains": [whole],
    }
    kept, again = (ds.Edit.load(out / f"{name}-20/edit").gains for name in ("kept", "again"))
    assert torch.equal(kept.values != 1, again.values != 1)
    assert len(kept.touched) == 20
    assert not torch.equal(kept.values, again.values)
    told = [read_object(folder / "run.json")["settings"] for folder in (learned, out / "again-20")]
    assert {name for name in told[0] if told[0][name] != told[1][name]} == {"start", "neurons"}
    drawn, start = (ds.Edit.load(out / f"random-20-seed-0{part}").gains for part in ("/edit", "-start"))
    assert torch.equal(drawn.touched.mask, start.touched.mask)
    assert drawn.touched.per_block == kept.touched.per_block
    assert not (drawn.touched.mask & kept.touched.mask).any()
    rows = {row["way"]: row for row in found.filter(pl.col("neurons") == 20).to_dicts()}
    assert rows["random ones learned again"]["beyond_mean"] == pytest.approx(
        rows["random ones learned again"]["toxicity_mean"] - rows["learned again"]["toxicity_mean"]
    )
    whole_gains = ds.Edit.load(learned / "edit").gains.values
    assert torch.equal(start.values[start.values != 1], whole_gains[start.values != 1])
    assert not torch.equal(drawn.values, start.values)
    assert found.filter(pl.col("way") == "penalty")["penalty"].to_list() == [0.3]
    assert f"| {held} | penalty, μ = 0.3 | " in told_first
    alone = read_object(out / "penalty-0.3/run.json")["settings"]
    assert {name: alone[name] for name in alone if alone[name] != told[0][name]} == {"sparsity": 0.3}
    # What was measured, by plain arithmetic.
    (path,) = (out / "measured/conditions").glob("20-kept*.json")
    row = found.filter((pl.col("neurons") == 20) & (pl.col("way") == "kept")).to_dicts()[0]
    assert row["toxicity_mean"] == pytest.approx(np.mean(read_object(path)["per_prompt"]["toxicity"]))
    assert (out / "sparse.svg").exists()
    with ds.Edit.load(out / "kept-20/edit").strength(2.0).on(lm := ds.load(str(job.model), dtype="float32")):
        prompts = list(split_prompts(load_prompts(str(job.prompts))).report)
        texts = [one.text for one in generate(lm, prompts, new_tokens=TOKENS)]
    assert row["toxicity_mean"] == pytest.approx(softness(texts).mean(), abs=1e-6)
    assert script(*command).communicate()[0] == told_first
    added, _ = script(*command, "--numbers", "10,20").communicate()
    assert set(told_first.splitlines()) < set(added.splitlines())
    assert (out / "sparse.md").read_text().strip() in added


def test_another_run_than_that_of_gains_is_refused(tmp_path):
    for told in (None, {"command": "tune", "settings": {}}, {"command": "dpo", "settings": {"train": "full"}}):
        if told is not None:
            write_json(tmp_path / "run.json", told)
        said = refused(main, tmp_path, "--out", tmp_path / "out")
        assert "is no run of dposcope dpo --train gains" in said
        assert len(said.splitlines()) == 1


def test_gains_of_another_version_are_refused():
    with pytest.raises(DposcopeError, match=r"runs/x has settings of another version \(forgotten\); learn its gains"):
        training({"model": "m", "pairs": "p.jsonl", "forgotten": 1}, Path("runs/x"), sparsity=0.3)


@pytest.mark.parametrize("wrong", [("--penalties", "1"), ("--random", "9999"), ("--numbers", "0")])
def test_what_cannot_be_had_is_told_before_anything_is_trained(tmp_path, wrong):
    write_json(tmp_path / "run.json", {"command": "dpo", "settings": {"train": "gains", "model": "m"}})
    ds.Edit.of(ds.Gains(torch.full((2, 4), 1.5))).save(tmp_path / "edit")
    said = refused(main, tmp_path, *wrong, "--out", tmp_path / "out")
    assert "cannot be had; penalties lie between" in said
    assert len(said.splitlines()) == 1
