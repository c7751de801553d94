"""What settings name, as digests: that a change is noticed, and only a change."""

import os

import pytest

from dposcope.directions.direction import Direction
from dposcope.evaluation.trained_scorer import TrainedScorer
from dposcope.jobs.reproduce import digests as sources
from dposcope.jobs.reproduce.digests import direction_digest, model_digest, named_digest


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["profanity", "unitary/toxic-bert", "hub:owner/name@test", "builtin:x.jsonl", "m:f"])
def test_what_is_no_file_here_stands_for_itself(inside, name):
    assert named_digest(name) == name


@pytest.mark.parametrize(
    ("name", "file"),
    [("data.txt", "data.txt"), ("words:list.txt", "list.txt"), ("own:score", "own.py"), ("a.own:score", "a/own.py")],
)
def test_a_file_counts_by_what_it_holds(inside, name, file):
    (inside / "a").mkdir()
    before = named_digest(name)
    (inside / file).write_text("one")
    one = named_digest(name)
    os.utime(inside / file, (1, 1))
    assert named_digest(name) == one, "its time is no part of it"
    (inside / file).write_text("two")
    assert len({str(x) for x in (before, one, named_digest(name))}) == 3
    assert named_digest([name, "profanity"]) == [named_digest(name), "profanity"]


def test_a_file_counts_the_same_wherever_it_lies(inside):
    for place in ("a", "b"):
        (inside / place).mkdir()
        (inside / place / "data.txt").write_text("same")
    assert named_digest("a/data.txt") == named_digest(str(inside / "b/data.txt"))


def test_a_trained_scorer_by_its_stem(inside):
    texts = [f"{'bad' if row % 2 else 'good'} text {row}" for row in range(40)]
    found = []
    for labels in ([0, 1] * 20, [1, 0] * 20):
        TrainedScorer.fit(texts, labels, seed=0).save(inside / "judge")
        found.append(named_digest("judge"))
    assert found[0] != found[1]
    assert "judge" not in found


def test_a_checkpoint_by_its_files(inside):
    folder = inside / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = model_digest("model")
    for name in (".cache", "original"):  # left by what downloads
        (folder / name).mkdir()
    (folder / ".hidden").write_text("x")
    os.utime(folder / "config.json", (1, 1))
    assert model_digest(str(folder)) == before
    (folder / "model.safetensors").write_text("weights")
    assert model_digest("model") != before
    assert model_digest("owner/name") == "owner/name"


def test_a_large_file_by_its_size_and_time(inside, monkeypatch):
    monkeypatch.setattr(sources, "_LARGE", 3)
    monkeypatch.setattr(sources, "file_digest", None)  # it is not read
    file = inside / "model.gguf"
    file.write_text("large")
    os.utime(file, (1, 1))
    before = model_digest("model.gguf")
    file.write_text("other")
    assert model_digest("model.gguf") != before


def test_a_saved_direction_and_no_other(inside):
    import torch

    found = []
    for value in (1.0, 2.0):
        Direction(torch.full((4,), value), "probe", -1).save(inside / "w")
        found.append(direction_digest("w"))
    assert found[0] != found[1]
    assert None not in found
    assert direction_digest("nothing") is None
    Direction(torch.ones(4), "probe", -1).save(inside / "probe")
    assert direction_digest("probe") is None, "a kind, whatever lies here"
    (inside / "w.safetensors").unlink()
    assert direction_digest("w") is None
