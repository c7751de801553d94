"""What is damaged and compared between kills."""

import json
import random
import sys
import tomllib
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from helpers.jobs import contents
from kills import Command, damage, made, mend, one_study


@pytest.fixture
def folder(tmp_path):
    """A command's folder in which it has worked."""
    (tmp_path / "out/stages").mkdir(parents=True)
    (tmp_path / "out/stages/one.json").write_text(json.dumps({"seconds": 1.5, "inputs": 3, "digest": "a"}))
    (tmp_path / "out/edit.safetensors").write_bytes(b"12345678")
    (tmp_path / "out/.lock").write_text("1")
    return tmp_path


def test_one_file_is_damaged_and_no_lock(folder):
    seen = set()
    for seed in range(40):
        before = contents(folder)
        path = damage(folder, random.Random(seed))
        after = contents(folder)
        differ = {name for name in before if before[name] != after[name]}
        assert {str(path.relative_to(folder))} == differ
        seen |= differ
        for name, data in before.items():
            (folder / name).write_bytes(data)
    assert seen == {"out/stages/one.json", "out/edit.safetensors"}


def test_clocks_and_locks_are_not_compared(folder):
    first = made(folder)
    assert set(first) == {"out/edit.safetensors"}
    (folder / "out/stages/one.json").write_text(json.dumps({"seconds": 9, "inputs": 3, "digest": "b"}))
    assert made(folder) == first
    (folder / "out/edit.safetensors").write_bytes(b"other")
    assert made(folder) != first


@pytest.mark.parametrize(
    ("code", "told", "deleted"),
    [
        (2, "dposcope: out/edit.safetensors is damaged (header); delete it and make it again\n", True),
        (2, "dposcope: something else is wrong\n", False),
        (1, "Traceback\n  of out/edit.safetensors\n", False),
    ],
)
def test_a_refusal_that_names_a_file_is_followed_and_all_else_is_a_failure(folder, code, told, deleted):
    command = Command("edit", ["edit"], "out")
    assert mend(command, folder, code, told) is deleted
    assert (folder / "out/edit.safetensors").exists() is not deleted
    assert bool(command.differ) is not deleted


def test_the_short_reproduction_is_a_preset(tmp_path):
    preset = tomllib.loads(one_study(tmp_path).read_text(encoding="utf-8"))
    assert len(preset["study"]) == 1
