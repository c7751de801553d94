"""`dposcope report` on folders that are no run of ours: one line, and nothing is written."""

import json
import os
from pathlib import Path

import pytest

from helpers.hostile import refused

READ = ("explain.json", "scores.json", "tables.json")
FOLDERS: dict[str, dict[str, bytes]] = {
    "an empty folder": {},
    "somebody's files": {"notes.txt": b"mine", "data/one.csv": b"1"},
    "a run.json of another program": {"run.json": b'{"status": "done", "command": "sweep"}'},
    "a run.json that is a list": {"run.json": b"[1, 2]"},
    "a run.json that is no JSON": {"run.json": b"status: done"},
    "a run of another command": {"run.json": b'{"kind": "dposcope run", "format_version": 1, "command": "edit"}'},
    "an explain.json alone": {"explain.json": b'{"kind": "dposcope explain"}'},
    "an explain.json of another program": dict.fromkeys(
        ("explain.json", "scores.json", "tables.json"), b'{"kind": "x"}'
    ),
    "an explain.json that is a list": dict.fromkeys(READ, b"[]"),
    "an explain.json that is no JSON": dict.fromkeys(READ, b"\x1b[31m"),
    "an explain.json that is empty": dict.fromkeys(READ, b""),
    "an explain.json that is no text": dict.fromkeys(READ, b"\xff\xfe\x00"),
    "nothing but its kind": dict.fromkeys(
        ("explain.json", "scores.json", "tables.json"), b'{"kind": "dposcope explain"}'
    ),
    "a plan of another program": {"plan.json": b'{"tasks": []}'},
    "a plan that is no JSON": {"plan.json": b"1. wake up"},
    "a plan whose runs are gone": {"plan.json": json.dumps({"title": "t", "runs": ["a/b/explain-strict"]}).encode()},
    "a plan that leads elsewhere": {"plan.json": json.dumps({"title": "t", "runs": ["../../etc", "/etc"]}).encode()},
}


@pytest.mark.parametrize("what", FOLDERS)
@pytest.mark.parametrize("place", ["a place of its own", "the folder itself"])
def test_a_strangers_folder_is_refused(tmp_path, what, place):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name, content in FOLDERS[what].items():
        (theirs / name).parent.mkdir(exist_ok=True)
        (theirs / name).write_bytes(content)
    before = {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file()}
    out = ["--out", tmp_path / "out"] if place == "a place of its own" else []
    assert str(theirs) in refused(["report", theirs, *out]) or not out
    assert {path: path.read_bytes() for path in theirs.rglob("*") if path.is_file()} == before


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to("nowhere")
    for name in ("missing", "file", "pipe", "gone"):
        assert name in refused(["report", tmp_path / name, "--out", tmp_path / "out"])


@pytest.mark.parametrize("name", [*READ, "plan.json"])
@pytest.mark.parametrize("what", ["a pipe", "a folder", "a link that leads nowhere"])
def test_a_file_that_is_none_is_refused(tmp_path, name, what):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for other in READ:
        (theirs / other).write_text('{"kind": "dposcope explain"}')
    (theirs / name).unlink(missing_ok=True)
    {
        "a pipe": os.mkfifo,
        "a folder": Path.mkdir,
        "a link that leads nowhere": lambda path: path.symlink_to("nowhere"),
    }[what](theirs / name)
    refused(["report", theirs, "--out", tmp_path / "out"])
