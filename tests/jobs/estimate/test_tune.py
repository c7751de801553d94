"""What a search reads and writes at most."""

import pytest

from dposcope.jobs.estimate.tune import tune_work
from dposcope.jobs.tune.settings import TuneSettings
from helpers.jobs import Job, make_job


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"), windows=60)


def names(job: Job, tmp_path, **given) -> dict[str, int]:
    """Stage → tokens that are written."""
    settings = TuneSettings(**job.learning(search_windows=10, split="halves", **given))
    work = tune_work(str(job.model), tmp_path / "out", settings)
    assert not list(tmp_path.iterdir())
    return {one.name: one.written for one in work.stages}


def test_each_source_of_an_edit_has_its_stages(job, tmp_path):
    whole = names(job, tmp_path, trials=7, samples=4, kl_weights=[1.0, 3.0])
    assert {"sampling", "gains, λ = 1", "gains, λ = 3", "neurons on neutral text", "7 trials"} <= set(whole)
    assert whole["sampling"] == 12 * 4 * 20, "every prompt to learn from, four times 20 tokens"
    assert whole["7 trials"] == 7 * 12 * 20
    computed = names(job, tmp_path, trials=7, methods=["groups"])
    assert not {"sampling", "neurons on neutral text"} & set(computed)
    quick = names(job, tmp_path, quick=True)
    assert not any("trials" in name for name in quick)
    assert whole["control"] == quick["control"] == 12 * 20 + 6 * 20


def test_a_teacher_is_trained_and_its_strength_is_set(job, tmp_path):
    full = TuneSettings(**job.learning(search_windows=10, split="halves", teacher="full", trials=2))
    plain = full.model_copy(update={"teacher": None})
    with_teacher, without = (tune_work(str(job.model), tmp_path / "out", one) for one in (full, plain))
    stages = [one.name for one in with_teacher.stages]
    assert stages.index("teacher: full") < stages.index("strength of the teacher") < stages.index("gains, λ = 6")
    held = {one.name: one.memory(with_teacher.running.weights) for one in with_teacher.stages}
    assert held["teacher: full"].training > 2 * with_teacher.running.weights
    assert "teacher: full" not in [one.name for one in without.stages]
