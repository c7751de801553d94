"""What folding takes: the disk, and the memory of one tensor."""

import pytest

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.jobs.estimate.fold import fold_work
from dposcope.shipping.ship import ship
from helpers.edits import gains_of
from helpers.families import tiny
from helpers.jobs import make_job


def test_the_new_folder_is_as_large_as_it_says(tmp_path):
    job = make_job(tmp_path / "job")
    edit = Edit.of(gains_of(tiny("llama")))
    work = fold_work(str(job.model), tmp_path / "out", edit, form=None)
    assert not (tmp_path / "out").exists()
    ship(job.model, edit, tmp_path / "out")
    written = sum(file.stat().st_size for file in (tmp_path / "out").iterdir())
    assert written / 1.5 < work.disk < 1.5 * written
    assert work.peak.weights == 0, "the model is never loaded"
    adapters = fold_work(str(job.model), tmp_path / "adapters", edit, form="adapters")
    assert adapters.disk < work.disk / 4


def test_what_folding_refuses_is_refused(tmp_path):
    job = make_job(tmp_path / "job")
    with pytest.raises(DposcopeError, match="exists already"):
        fold_work(str(job.model), tmp_path / "job", Edit.of(gains_of(tiny("llama"))), form=None)
    with pytest.raises(DposcopeError):
        fold_work(str(job.model), tmp_path / "out", Edit.of(gains_of(tiny("gpt2"))), form=None)
