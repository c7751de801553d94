"""Folders and files of others stay as they are."""

import json
import re

import pytest

from dposcope.jobs.ownership import FORMAT, REPORT, RUN
from helpers.every_command import ORDERS, make_ground
from helpers.jobs import command, contents

RUNS = ["edit", "evaluate", "explain", "tune", "dpo-gains"]
FOREIGN = {
    "a note": {"notes.txt": b"mine"},
    "a run.json of another program": {"run.json": b'{"command": "edit", "settings": {}}', "data.csv": b"1"},
    "a run.json alone": {"run.json": b'{"status": "done"}'},
    "a run.json that is a list": {"run.json": b"[1, 2]"},
    "a run.json of another kind": {"run.json": json.dumps({"kind": REPORT, "format_version": 1}).encode()},
    "a stray lock": {".lock": b"", "thesis.tex": b"mine"},
    "a lock of another program": {".lock": b"4711"},
    "hidden files": {".git": b"x"},
    "a report": {"report.html": b"<p>mine"},
    "stages of another program": {"stages/one.json": b"{}", "report.html": b"mine"},
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return make_ground(tmp_path_factory.mktemp("ground"))


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def refused(told, before, folder) -> str:
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1), told
    assert contents(folder) == before
    return told.err


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("what", FOREIGN)
def test_a_folder_of_others_is_refused_and_stays(ground, capsys, tmp_path, name, what):
    write(tmp_path / "out", FOREIGN[what])
    before = contents(tmp_path)
    said = refused(command(capsys, *ORDERS[name].given(ground, tmp_path)), before, tmp_path)
    assert re.search(r"choose an(other| empty or new folder for) --out", said)


@pytest.mark.parametrize("what", FOREIGN)
def test_nor_is_it_taken_for_a_report_or_a_reproduction(capsys, tmp_path, what):
    write(tmp_path / "out", FOREIGN[what])
    before = contents(tmp_path)
    told = command(capsys, "reproduce", "--preset", "smoke", "--out", tmp_path / "out")
    said = refused(told, before, tmp_path)
    assert re.search(r"choose an(other| empty or new folder for) --out", said)


@pytest.mark.parametrize("name", RUNS)
def test_a_newer_format_is_refused(ground, capsys, tmp_path, name):
    write(tmp_path / "out", {"run.json": json.dumps({"kind": RUN, "format_version": FORMAT + 1}).encode()})
    before = contents(tmp_path)
    said = refused(command(capsys, *ORDERS[name].given(ground, tmp_path)), before, tmp_path)
    assert "upgrade dposcope" in said


@pytest.mark.parametrize("left", [{}, {".lock": b""}, {".lock": b"", ".run.json.abc.part": b"{"}])
def test_a_run_that_was_killed_at_once_goes_on(ground, capsys, tmp_path, left):
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", left)
    told = command(capsys, *ORDERS["dpo-gains"].given(ground, tmp_path))
    assert told.code == 0, told.err


@pytest.mark.parametrize(
    "files",
    [
        {"toxic.json": b'{"mine": 1}'},
        {"toxic.json": b"[]"},
        {"toxic.json": b"no json"},
        {"toxic.safetensors": b"mine"},
        {"toxic.json": b'{"kind": "Direction"}', "toxic.safetensors": b"mine"},
    ],
)
@pytest.mark.parametrize("out", ["toxic", "toxic.json", "toxic.safetensors"])
def test_a_direction_replaces_no_file_of_others(ground, capsys, tmp_path, files, out):
    write(tmp_path, files)
    before = contents(tmp_path)
    arguments = ORDERS["probe"].given(ground, tmp_path)[:-1]
    said = refused(command(capsys, *arguments, tmp_path / out), before, tmp_path)
    assert "exists already and is not from dposcope; choose another --out" in said


def test_a_direction_replaces_an_earlier_one(ground, capsys, tmp_path):
    for _ in range(2):
        told = command(capsys, *ORDERS["probe"].given(ground, tmp_path))
        assert told.code == 0, told.err
