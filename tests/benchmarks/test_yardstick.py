"""The benchmark of what edited models write: every column against the library's own measures."""

import sys
from pathlib import Path

import pytest

import dposcope as ds
from helpers.families import random_gains
from helpers.jobs import make_job, refused

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import yardstick


@pytest.fixture
def options(tmp_path):
    job = make_job(tmp_path / "job")
    lm = ds.load(str(job.model), dtype="float32", device="cpu")
    ds.Edit.of(ds.Gains(random_gains(lm))).save(tmp_path / "edit")
    arguments = [str(job.model), "--condition", f"mine=edit:{tmp_path / 'edit'}", "--prompts", str(job.prompts)]
    given = [*arguments, "--rows", "0:4", "--samples", "3", "--scorers", "helpers.jobs:softness", "--dtype", "float32"]
    return yardstick._parser().parse_args(given)


def test_rows_are_those_of_the_librarys_measures(options, tmp_path):
    plain, ideal, mine = rows = list(yardstick.measure(options))
    assert [row.name for row in rows] == ["none", "ideal", "mine"]
    lm = ds.load(options.model, dtype="float32", device="cpu")
    prompts = ds.load_prompts(options.prompts)[:4]
    scorer = ds.load_scorer("helpers.jobs:softness")
    samples = ds.sample_texts(lm, prompts, samples=3)
    scores = scorer([one.text for one in samples])
    assert plain.sampled["helpers.jobs:softness"] == ds.RealToxicity.of(scores.reshape(4, 3))
    kept = ds.harmless(samples, scores)
    assert ideal.sampled["helpers.jobs:softness"].mean.mean == pytest.approx(scorer([one.text for one in kept]).mean())
    with ds.Edit.load(tmp_path / "edit").on(lm):
        after = ds.continuation_losses(lm, kept)
    before = ds.continuation_losses(lm, kept)
    assert mine.harmless.mean == pytest.approx(after.mean - before.mean, abs=1e-6)
    assert (plain.harmless, plain.pairs_kept, plain.phrase) == (None, 1.0, None)
    shown = yardstick.table(rows).markdown()
    assert shown.count("\n|") == 5
    assert "helpers.jobs:softness" in shown


def test_a_condition_that_needs_a_direction_is_refused(tmp_path):
    job = make_job(tmp_path / "job")
    own = ("--scorers", "helpers.jobs:softness")
    told = refused(yardstick.main, job.model, "--condition", "steer:alpha=1", "--prompts", job.prompts, *own)
    assert told.startswith("yardstick: ")
    assert "give edit: ones" in told
