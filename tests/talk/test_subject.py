"""What a name stands for: a model, a run, an edit; and one line where it stands for nothing."""

import json
import shutil
from pathlib import Path

import pytest

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.jobs.edit.job import run_edit
from dposcope.jobs.edit.settings import EditSettings
from dposcope.model.load import load
from dposcope.talk.subject import Subject
from helpers.edits import gains_of
from helpers.jobs import Job, make_job


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def run(job, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("done") / "out"
    run_edit(str(job.model), out, EditSettings(**job.settings(alpha=0.2, ablate=0.5, controls=False)))
    return out


@pytest.fixture
def changed(run, tmp_path):
    """A copy of the run, with its `run.json` changed."""

    def make(change) -> Path:
        copy = tmp_path / "copy"
        shutil.copytree(run, copy)
        told = json.loads((copy / "run.json").read_text())
        change(told)
        (copy / "run.json").write_text(json.dumps(told))
        return copy

    return make


@pytest.fixture
def saved(job, tmp_path) -> Path:
    Edit.of(gains_of(load(str(job.model), dtype="float32", device="cpu"))).save(tmp_path / "mine")
    return tmp_path / "mine"


def test_a_model_alone_has_no_edit(job):
    found = Subject.find(str(job.model))
    assert (found.model, found.edit) == (str(job.model), None)
    with pytest.raises(DposcopeError, match=r"no edit comes with dposcope for .*--edit.*dposcope edit"):
        Subject.find(str(job.model), needed=True)


@pytest.mark.parametrize("named", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_a_bundled_model_has_the_edit_that_comes_with_it(named):
    found = Subject.find(named)
    assert found.named == named
    assert found.edit.gains is not None


@pytest.mark.parametrize("spelt", ["{}", "{}.safetensors", "edit:{}"])
def test_an_edit_by_its_file(job, saved, spelt):
    found = Subject.find(str(job.model), spelt.format(saved))
    assert found.edit.gains.values.equal(Edit.load(saved).gains.values)


def test_a_run_names_its_model_its_edit_and_its_scorer(job, run, saved):
    found = Subject.find(str(run))
    assert (found.model, found.named, found.scorer) == (str(job.model), str(run), "helpers.jobs:softness")
    assert str(found.edit) == str(Edit.load(run / "edit"))
    assert str(Subject.find(str(run), str(saved)).edit) == str(Edit.load(saved))
    assert str(Subject.find(str(job.model), str(run)).edit) == str(found.edit)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda run: run.update(command="evaluate"), "is a run of dposcope evaluate, which makes no edit"),
        (lambda run: run.pop("finished"), "is not finished; run the same command again"),
        (lambda run: run["settings"].pop("model"), "names no model"),
        (lambda run: run["settings"].update(model=7), r"settings\.model is no text"),
        (lambda run: run.update(settings=[]), "is damaged or of another version"),
    ],
)
def test_a_run_that_leaves_nothing_to_talk_to(changed, change, told):
    with pytest.raises(DposcopeError, match=told):
        Subject.find(str(changed(change)))


def test_a_run_without_an_edit_names_its_model(changed):
    folder = changed(lambda run: None)
    for file in ("edit.json", "edit.safetensors"):
        (folder / file).unlink()
    with pytest.raises(DposcopeError, match=rf"left no edit; talk to its model: {folder / 'model'}"):
        Subject.find(str(folder))


def test_a_changed_edit_of_a_run_is_refused(changed, saved):
    folder = changed(lambda run: None)
    Edit.load(saved).save(folder / "edit")
    with pytest.raises(DposcopeError, match="run the same command there again"):
        Subject.find(str(folder))


@pytest.mark.parametrize("named", ["nothing/here", "edit:nothing", ""])
def test_an_edit_that_is_not_there(job, named):
    with pytest.raises(DposcopeError, match=r"edit\.safetensors"):
        Subject.find(str(job.model), named)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(DposcopeError, match="is not a model"):
        Subject.find("no such model!")
