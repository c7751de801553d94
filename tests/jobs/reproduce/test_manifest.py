"""The record of finished steps."""

import pytest

from dposcope.artefacts import file_digest, read_json
from dposcope.errors import DposcopeError
from dposcope.jobs.reproduce.manifest import Manifest


def entered(tmp_path) -> Manifest:
    folder = tmp_path / "m/step"
    (folder / "stages").mkdir(parents=True)
    (folder / "result.txt").write_text("one")
    (folder / "stages/clock.json").write_text("12.3 s")
    (folder / ".lock").touch()
    manifest = Manifest.read(tmp_path)
    manifest.enter("m/step", "key", folder, root=tmp_path, skip=("stages",))
    return manifest


def test_a_finished_step_is_known_with_its_files(tmp_path):
    entered(tmp_path)
    again = Manifest.read(tmp_path)
    result = tmp_path / "m/step/result.txt"
    assert again.steps == {"m/step": {"key": "key", "artefacts": {"m/step/result.txt": file_digest(result)}}}
    assert again.has("m/step", "key", [result])
    assert not again.has("m/step", "another key", [result])
    assert not again.has("m/other", "key", [result])
    assert not again.has("m/step", "key", [result, tmp_path / "m/step/other.txt"])
    result.unlink()
    assert not again.has("m/step", "key", [result])


def test_a_step_that_begins_again_is_not_believed(tmp_path):
    entered(tmp_path).drop("m/step")
    assert Manifest.read(tmp_path).steps == {}
    Manifest.read(tmp_path).drop("m/step")  # twice is no fault


def test_the_order_of_entering_leaves_no_trace(tmp_path):
    manifest = entered(tmp_path)
    for name in ("z", "a"):
        manifest.enter(name, "k", tmp_path / "m/step", root=tmp_path, skip=("stages",))
    assert list(read_json(tmp_path / "manifest.json")["steps"]) == ["a", "m/step", "z"]


@pytest.mark.parametrize("text", ["[]", '{"kind": "something else"}'])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DposcopeError, match="is not the manifest of a reproduction; choose another --out"):
        Manifest.read(tmp_path)
