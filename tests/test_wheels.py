"""Wheels: what pip is asked for, and that nothing is opened whose digest is not known."""

import sys
import zipfile
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from dposcope import wheels
from dposcope.artefacts import file_digest
from dposcope.errors import DposcopeError
from dposcope.wheels import downloaded_wheel


@pytest.fixture
def toy(tmp_path):
    """A wheel with one file."""
    path = tmp_path / "toy-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("toy/data.txt", "whole")
    return path


class Pip:
    """Stands in for `pip download`."""

    def __init__(self, *files, code=0, stderr=""):
        self.files, self.code, self.stderr = files, code, stderr
        self.commands = []

    def __call__(self, command, **_settings):
        self.commands.append(command)
        for file in self.files:
            (Path(command[command.index("--dest") + 1]) / file.name).write_bytes(file.read_bytes())
        return CompletedProcess(command, self.code, "", self.stderr)


def ask(pip, monkeypatch, sha256):
    monkeypatch.setattr(wheels.subprocess, "run", pip)
    with downloaded_wheel("toy==1.0", sha256) as wheel:
        return wheel.read("toy/data.txt")


def test_a_wheel_is_opened_and_nothing_is_left(toy, monkeypatch):
    pip = Pip(toy)
    assert ask(pip, monkeypatch, file_digest(toy)) == b"whole"
    assert not Path(pip.commands[0][pip.commands[0].index("--dest") + 1]).exists()


def test_pip_is_asked_for_this_wheel_alone_and_builds_nothing(toy, monkeypatch):
    pip = Pip(toy)
    ask(pip, monkeypatch, file_digest(toy))
    command = pip.commands[0]
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[command.index("--only-binary") + 1] == ":all:"
    assert "--no-deps" in command
    assert command[-1] == "toy==1.0"


def test_another_digest_is_refused_before_the_wheel_is_opened(toy, monkeypatch):
    monkeypatch.setattr(wheels.zipfile, "ZipFile", lambda *_: pytest.fail("opened"))
    with pytest.raises(DposcopeError, match=r"wheel of toy==1.0 has the SHA-256 \w{12}…, not 0{12}…; download it from"):
        ask(Pip(toy), monkeypatch, "0" * 64)


def test_a_failed_download_gives_pips_last_line(monkeypatch):
    pip = Pip(code=1, stderr="trying\nERROR: no such package\n")
    with pytest.raises(DposcopeError, match=r"cannot download toy==1\.0: ERROR: no such package; check the"):
        ask(pip, monkeypatch, "0" * 64)


def test_a_source_distribution_is_not_taken(tmp_path, monkeypatch):
    source = tmp_path / "toy-1.0.tar.gz"
    source.write_bytes(b"x")
    with pytest.raises(DposcopeError, match=r"cannot download toy==1\.0: no wheel"):
        ask(Pip(source), monkeypatch, file_digest(source))


def test_without_pip_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(wheels, "find_spec", lambda _name: None)
    with pytest.raises(DposcopeError, match=r"needs pip, which this Python lacks; run: .* -m ensurepip"):
        ask(None, monkeypatch, "0" * 64)
