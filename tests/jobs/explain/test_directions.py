"""The directions along which claims are judged, and the patches along each, against the library's own calls."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dposcope.directions.judge import WordListJudge
from dposcope.directions.means import mean_difference
from dposcope.directions.probe import fit_probe
from dposcope.directions.tokens import token_contrast
from dposcope.jobs.explain.directions import claim_directions, explained_along, name_of, patched_along
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.ingredients.data import read_data
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.opening import open_run
from dposcope.model.generate import generate
from dposcope.model.load import load
from dposcope.neurons.activations import collect_means
from dposcope.neurons.contributions import contributions
from helpers.changes import tuned_copy
from helpers.jobs import make_job


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("directions")
    made = make_job(folder / "job")
    settings = ExplainSettings(**made.settings(direction="mean-difference"))
    data, lm = read_data(settings), load(str(made.model), dtype="float32")
    with open_run(folder / "out", "test", {}) as run:
        yield Job(run, lm, data), settings.direction_spec


@pytest.fixture(scope="module")
def directions(setting):
    job, spec = setting
    balanced = job.data.direction_comments.balanced()
    own = mean_difference(job.lm, balanced.texts, balanced.labels)
    return claim_directions(job, own, spec)


def test_every_kind_is_there_with_its_seeds(setting, directions):
    job, spec = setting
    assert list(directions) == [
        "probe", "probe, seed 1", "probe, seed 2", "balanced probe", "difference of means", "token contrast",
        "random 1", "random 2", "random 3",
    ]  # fmt: skip
    comments, few = job.data.direction_comments, job.data.direction_comments.balanced()
    seeds = spec.concept.seeds()
    expected = {
        "probe": fit_probe(job.lm, comments.texts, comments.labels, seed=0),
        "probe, seed 2": fit_probe(job.lm, comments.texts, comments.labels, seed=2),
        "balanced probe": fit_probe(job.lm, few.texts, few.labels, seed=0),
        "difference of means": mean_difference(job.lm, few.texts, few.labels),
        "token contrast": token_contrast(job.lm, seeds.toxic, seeds.non_toxic, matrix="input"),
    }
    for name, direction in expected.items():
        found = directions[name].unit
        assert float(found @ direction.unit) == pytest.approx(1, abs=1e-5), name
    assert abs(float(directions["random 1"].unit @ directions["random 2"].unit)) < 0.9


def test_the_runs_own_direction_has_its_usual_name():
    names = [name_of(kind) for kind in ("probe", "mean_difference", "token_contrast", "mine")]
    assert names == ["probe", "difference of means", "token contrast", "saved"]


def test_patches_along_a_direction_are_scored_as_any_condition(setting, directions):
    job, _ = setting
    other = tuned_copy(job.lm)
    before, after = (collect_means(lm, job.data.learn, new_tokens=4) for lm in (job.lm, other))
    change = contributions(job.lm, other, before, after, directions["difference of means"].vector)
    chosen = {name: directions[name] for name in ("probe", "random 1")}
    found = explained_along(job, other, change, chosen, WordListJudge(), toxic_sets=[4], seed=0)
    assert [one.control for one in found] == [False, True]
    for one in found:
        again = contributions(job.lm, other, before, after, chosen[one.name].vector)
        assert torch.allclose(one.explanation.contributions.total, again.total)
        assert not any(patch.kind == "control" for patch in one.patches)
        scores = patched_along(job, one, job.data.report)
        assert set(scores) == {patch.name for patch in one.patches}
        patch = one.patches[-1]
        with patch.assign(again).on(job.lm):
            texts = [text.text for text in generate(job.lm, job.data.report.prompts)]
        assert np.allclose(scores[patch.name]["toxicity"], job.data.report.scorer(texts))
    both = [patched_along(job, one, job.data.report) for one in found]
    assert both[0].keys() != both[1].keys() or any(
        not np.array_equal(both[0][name]["toxicity"], both[1][name]["toxicity"]) for name in both[0]
    )


def test_the_runs_own_probe_is_not_fitted_again(setting, tmp_path, monkeypatch):
    job, spec = setting
    comments, fitted = job.data.direction_comments, []
    own = fit_probe(job.lm, comments.texts, comments.labels, seed=spec.seed)

    def fit(*given, **how):
        fitted.append(how["seed"])
        return fit_probe(*given, **how)

    monkeypatch.setattr("dposcope.jobs.explain.directions.fit_probe", fit)
    with open_run(tmp_path / "out", "test", {}) as run:
        found = claim_directions(Job(run, job.lm, job.data), own, replace(spec, kind="probe"))
    assert fitted == [spec.seed + 1, spec.seed + 2, spec.seed], "the last on balanced comments"
    assert torch.equal(found["probe"].vector, own.vector)
