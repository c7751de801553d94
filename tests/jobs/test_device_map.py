"""Whole jobs with `--device-map auto` on pretended GPUs: the numbers of one device."""

import pytest

from dposcope.jobs.edit.job import run_edit
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.explain.job import run_explain
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.model.load import load
from helpers.changes import tuned_copy
from helpers.fake_devices import pretended_gpus
from helpers.families import assert_close
from helpers.jobs import make_job

ALL = {"device": "auto", "device_map": "auto"}
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("lighter")]


def test_an_edit_is_chosen_measured_and_folded(tmp_path):
    job = make_job(tmp_path / "job")

    def run(out, **where):
        settings = EditSettings(**job.settings(alpha=0.3, ablate=0.5, max_windows=1, **where))
        return run_edit(str(job.model), tmp_path / out, settings)

    wanted = run("one")
    with pretended_gpus():
        found = run("all", **ALL)
    assert_close(found.edit.gains.values, wanted.edit.gains.values)
    for name, scores in wanted.scores.conditions.items():
        for measure, estimate in scores.items():
            assert found.scores.conditions[name][measure].mean == pytest.approx(estimate.mean, rel=1e-4), measure
    folded, its = (load(tmp_path / out / "model", device="cpu") for out in ("all", "one"))
    for one, other in zip(folded.model.parameters(), its.model.parameters(), strict=True):
        assert_close(one, other)


def test_what_a_tuning_changed_is_explained(tmp_path):
    job = make_job(tmp_path / "job")
    tuned_copy(load(job.model, device="cpu")).save_pretrained(tmp_path / "tuned")
    few = {"toxic_neurons": [4], "neurons_only": True, "folds": 0, "seeds": 0, "max_windows": 1}

    def run(out, **where):
        settings = ExplainSettings(**job.settings(**few, **where))
        return run_explain(str(job.model), str(tmp_path / "tuned"), tmp_path / out, settings)

    wanted = run("one")
    with pretended_gpus():
        found = run("all", **ALL)
    assert_close(found.explanation.contributions.total, wanted.explanation.contributions.total)
