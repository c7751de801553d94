"""What `explain` repeats: the rules that need no model. Its stages are tested with the job."""

from dataclasses import replace

import pytest

from dposcope.data.prompts import PromptSplit
from dposcope.errors import DposcopeError
from dposcope.study.explain_settings import ExplainSettings
from dposcope.study.ingredients import read_data
from dposcope.study.repetitions import check_repetitions, fitted_comments, prompt_folds
from jobs import make_job


@pytest.mark.parametrize(
    ("asked", "prompts", "folds"), [(2, 12, 2), (5, 12, 5), (5, 3, 3), (2, 2, 2), (2, 1, 0), (0, 12, 0)]
)
def test_there_are_no_more_folds_than_prompts(tmp_path, asked, prompts, folds):
    settings = ExplainSettings(**make_job(tmp_path).settings(folds=asked))
    data = read_data(settings)
    data = replace(data, prompts=PromptSplit(data.prompts.report, data.prompts.learn[:prompts]))
    assert prompt_folds(settings, data) == folds


@pytest.mark.parametrize("settings", [{"folds": 1}, {"seeds": 1}])
def test_one_of_anything_is_refused(settings):
    (name,) = settings
    with pytest.raises(DposcopeError, match=f"--{name} 1 gives nothing to compare"):
        check_repetitions(ExplainSettings(**settings))
    check_repetitions(ExplainSettings(**{name: 0}))
    check_repetitions(ExplainSettings(**{name: 2}))


def test_without_seeds_no_comment_is_read_again():
    assert fitted_comments(None, ExplainSettings(seeds=0)) is None
