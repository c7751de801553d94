"""What an edit reads and writes is counted before it starts; a search for its strength is a guess."""

import pytest

from dposcope.jobs.edit.job import run_edit
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.estimate.edit import TRIALS, edit_work
from helpers.jobs import make_job
from helpers.tokens_counted import count_tokens


@pytest.mark.usefixtures("light")
def test_its_tokens_are_those_of_the_run(monkeypatch, tmp_path):
    job = make_job(tmp_path / "job", windows=20)
    (tmp_path / "words.txt").write_text("zzzzzz\n")
    given = job.settings(scorer=f"words:{tmp_path / 'words.txt'}", alpha=0.2, ablate=0.5, max_windows=2, limit=16)
    settings = EditSettings(**given)
    work = edit_work(str(job.model), tmp_path / "out", settings)
    assert not (tmp_path / "out").exists()
    searching = edit_work(str(job.model), tmp_path / "out", settings.model_copy(update={"alpha": None, "ablate": None}))
    seen = count_tokens(monkeypatch)
    run_edit(str(job.model), tmp_path / "out", settings)
    assert sum(one.read for one in work.stages) == seen.read
    assert sum(one.written for one in work.stages) == seen.written
    assert work.notes == ()

    (search,) = (one for one in searching.stages if one.name == "search for the strength")
    assert search.read == (1 + TRIALS) * 10 * 128, "ten windows a trial"
    assert "may need 12" in searching.notes[0]

    written = sum(file.stat().st_size for file in (tmp_path / "out").rglob("*") if file.is_file())
    model = sum(file.stat().st_size for file in (tmp_path / "out/model").rglob("*") if file.is_file())
    (checkpoint,) = (one for one in work.stages if one.name == "checkpoint")
    assert model / 1.2 < checkpoint.disk < 1.2 * model
    assert written / 3 < work.disk
