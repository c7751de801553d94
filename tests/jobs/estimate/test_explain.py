"""What an explanation reads and writes: to the token without conditions, at most with them."""

import pytest

from dposcope.jobs.estimate import explain as estimated
from dposcope.jobs.estimate.explain import explain_work, interchanged_rows, measured_rows
from dposcope.jobs.estimate.machine import Machine
from dposcope.jobs.explain.job import run_explain
from dposcope.jobs.explain.settings import ExplainSettings
from helpers.every_command import make_ground
from helpers.tokens_counted import count_tokens


@pytest.mark.usefixtures("light")
def test_a_quick_look_reads_what_it_says(monkeypatch, tmp_path):
    ground = make_ground(tmp_path / "ground")
    (tmp_path / "words.txt").write_text("zzzzzz\n")
    given = ground.job.settings(
        scorer=f"words:{tmp_path / 'words.txt'}", neurons_only=True, toxic_neurons=[4], limit=16
    )
    settings = ExplainSettings(**given)
    names = (str(ground.job.model), str(ground.tuned), tmp_path / "out")
    work = explain_work(*names, settings)
    assert not (tmp_path / "out").exists()
    seen = count_tokens(monkeypatch)
    run_explain(*names, settings)
    assert sum(one.read for one in work.stages) == seen.read
    assert sum(one.written for one in work.stages) == seen.written
    whole = explain_work(*names, settings.model_copy(update={"neurons_only": False}))
    assert sum(one.written for one in whole.stages) > 5 * seen.written
    assert work.peak.weights == 2 * work.running.weights
    streamed = explain_work(*names, settings.model_copy(update={"stream": True}))
    weights = work.running.weights
    assert weights < streamed.peak.weights < work.peak.weights
    assert streamed.scratch == 2 * weights
    large, small, gpu = (
        Machine("", 1e15, 1e15, memory, 2, gpu=gpu) for memory, gpu in ((10**9, 0), (1, 0), (10**9, 1))
    )
    # Both files are written once; where memory is too small for both, each pass reads them again.
    assert streamed.seconds(large) - work.seconds(large) == pytest.approx(2 * weights / 5e8)
    assert streamed.seconds(small) > streamed.seconds(large)
    assert "weights on their way to the GPU" in {limit for one in streamed.stages for limit in one.seconds_by(gpu)}
    edit = explain_work(names[0], f"edit:{ground.edit}", names[2], settings.model_copy(update={"stream": True}))
    assert edit.scratch == weights


def test_rows_are_those_of_the_settings():
    quick = ExplainSettings(neurons_only=True)
    assert measured_rows(quick) == 2
    settings = ExplainSettings(
        toxic_neurons=[256], controls=False, steer=[0.1], edits=False, patching=True, interchange=False
    )
    assert measured_rows(settings) == 2 + 1 + 1 + estimated.GROUPS


def test_a_condition_by_interchange_counts_twice():
    """Both models read. Sets: patches, three whole parts, four rankings of three sizes, three in reverse."""
    settings = ExplainSettings(toxic_neurons=[256], controls=False)
    patches = 1 + estimated.GROUPS
    assert interchanged_rows(settings) == patches + 3 + 12 + 3
    for off in ({"interchange": False}, {"neurons_only": True}, {"protocol": "reference"}):
        assert interchanged_rows(ExplainSettings(**off)) == 0
