"""What settings name, as digests: that a change is noticed, and only a change."""

import os

import pytest
import torch

from dposcope.directions.direction import Direction
from dposcope.evaluation.trained_scorer import TrainedScorer
from dposcope.jobs import named_files as module
from dposcope.jobs.named_files import named_files


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def digest(value) -> str | None:
    return named_files({"x": value}).get("x")


@pytest.mark.parametrize(
    "value",
    [
        *(
            "profanity",
            "unitary/toxic-bert",
            "hub:owner/name@test",
            "builtin:x.jsonl",
            "m:f",
            "",
            "x" * 5000,
            "a\0b",
            "~ hello",
        ),
        *(None, 3, 0.5, True, [], ["a", "b"]),
    ],
)
def test_what_is_no_file_here_is_left_out(inside, value):
    assert named_files({"x": value}) == {}


@pytest.mark.parametrize(
    ("name", "file"),
    [("data.txt", "data.txt"), ("words:list.txt", "list.txt"), ("own:score", "own.py"), ("a.own:score", "a/own.py")],
)
def test_a_file_counts_by_what_it_holds(inside, name, file):
    (inside / "a").mkdir()
    (inside / file).write_text("one")
    one = digest(name)
    assert one is not None
    os.utime(inside / file, (1, 1))
    assert digest(name) == one, "its time is no part of it"
    both = digest([name, "profanity"])
    (inside / file).write_text("two")
    assert digest(name) != one
    assert None is not digest([name, "profanity"]) != both


def test_a_file_counts_the_same_wherever_it_lies(inside):
    for place in ("a", "b"):
        (inside / place).mkdir()
        (inside / place / "data.txt").write_text("same")
    assert digest("a/data.txt") == digest(str(inside / "b/data.txt"))


def test_a_saved_value_by_its_stem(inside):
    found = []
    for value in (1.0, 2.0):
        Direction(torch.full((4,), value), "probe", -1).save(inside / "w")
        found.append(digest("w"))
    assert None not in found
    assert found[0] != found[1]
    (inside / "w.safetensors").unlink()
    assert digest("w") is None


def test_a_trained_scorer_by_its_folder(inside):
    texts = [f"{'bad' if row % 2 else 'good'} text {row}" for row in range(40)]
    (inside / "run").mkdir()
    found = []
    for labels in ([0, 1] * 20, [1, 0] * 20):
        TrainedScorer.fit(texts, labels, seed=0).save(inside / "run/judge")
        found += [digest("run"), digest("run/judge")]
    assert len({*found, None}) == 5


def test_a_checkpoint_by_its_files(inside):
    folder = inside / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    before = digest("model")
    for name in (".cache", "original"):  # left by what downloads
        (folder / name).mkdir()
    (folder / ".hidden").write_text("x")
    os.utime(folder / "config.json", (1, 1))
    assert digest(str(folder)) == digest("edit:model") == before
    (folder / "model.safetensors").write_text("weights")
    assert digest("model") != before


def test_a_large_file_by_its_size_and_time(inside, monkeypatch):
    monkeypatch.setattr(module, "LARGE", 3)
    monkeypatch.setattr(module, "file_digest", None)  # it is not read
    file = inside / "model.gguf"
    file.write_text("large")
    os.utime(file, (1, 1))
    before = digest("model.gguf")
    file.write_text("other")
    assert digest("model.gguf") != before
