"""What `explain` repeats: the rules that need no model. Its stages are tested with the job."""

from dataclasses import replace

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.jobs.explain.job import check_explain
from dposcope.jobs.explain.repetitions import fitted_comments, other_kinds, prompt_folds
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.ingredients.data import read_data
from dposcope.jobs.ingredients.job import Job as StudyJob
from dposcope.jobs.opening import open_run
from dposcope.model.load import load
from helpers.jobs import make_job


@pytest.mark.parametrize(
    ("asked", "prompts", "folds"), [(2, 12, 2), (5, 12, 5), (5, 3, 3), (2, 2, 2), (2, 1, 0), (0, 12, 0)]
)
def test_there_are_no_more_folds_than_prompts(asked, prompts, folds):
    assert prompt_folds(asked, prompts) == folds


@pytest.mark.parametrize("settings", [{"folds": 1}, {"seeds": 1}])
def test_one_of_anything_is_refused(settings):
    (name,) = settings
    with pytest.raises(DposcopeError, match=f"--{name} 1 gives nothing to compare"):
        check_explain(ExplainSettings(**settings))
    check_explain(ExplainSettings(**{name: 0}))
    check_explain(ExplainSettings(**{name: 2}))


def test_other_labels_of_the_same_texts_make_other_directions(tmp_path):
    """Features know nothing of labels, so the stages of directions must."""
    made = make_job(tmp_path / "job")
    settings = ExplainSettings(**made.settings(direction="probe"))
    data, lm = read_data(settings), load(str(made.model), dtype="float32")
    flipped = replace(data.direction_comments, labels=~data.direction_comments.labels)
    found = []
    for one in (data, replace(data, direction_comments=flipped)):
        with open_run(tmp_path / "out", "test", {}) as run:
            job = StudyJob(run, lm, one)
            fitted = fitted_comments(job, settings.direction_spec)
            found.append(other_kinds(job, fitted)["mean-difference"])
    assert torch.allclose(found[0].vector, -found[1].vector)
