"""Only ordinary files are read, and none that is larger than can be meant."""

import os
import socket
from pathlib import Path

import pytest

from dposcope.errors import DposcopeError
from dposcope.files import check_regular, expanded, read_regular


def test_an_ordinary_file_and_a_link_to_one(tmp_path):
    (tmp_path / "a").write_bytes(b"rows")
    (tmp_path / "link").symlink_to("a")
    assert (check_regular(tmp_path / "a"), check_regular(tmp_path / "link")) == (4, 4)
    assert read_regular(tmp_path / "link") == b"rows"


def test_a_home_folder_that_is_not_there_is_told(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/model") == Path("/home/me/model")
    assert expanded(Path("model")) == Path("model")
    with pytest.raises(DposcopeError, match="no home folder for '~nosuchuser/model'; write the path without ~"):
        expanded("~nosuchuser/model")


@pytest.fixture
def odd(tmp_path):
    """What is there but is no file."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        yield tmp_path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("pipe", "is a pipe; copy what it gives into a file, and name that"),
        ("link", "is a pipe"),
        ("folder", "is a folder; name a file in it"),
        ("socket", "is a socket"),
        ("/dev/zero", "is a device"),
        ("/dev/null", "is a device"),
        ("a\0b", "is no path .*null"),
    ],
)
def test_what_is_no_file_is_never_opened(odd, name, told):
    for reader in (check_regular, read_regular):
        with pytest.raises(DposcopeError, match=told):
            reader(odd / name)


def test_what_is_not_there_is_left_to_the_caller(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "nothing")


def test_a_large_file_is_not_read(tmp_path):
    """It has a hole: no disk is used, and to read it would take seconds."""
    path = tmp_path / "large"
    path.touch()
    os.truncate(path, 1 << 36)
    with pytest.raises(DposcopeError, match="has more than 1,073,741,824 bytes, the most that are read of such a file"):
        read_regular(path)
    os.truncate(path, 11)
    assert read_regular(path, most=11) == b"\0" * 11
    with pytest.raises(DposcopeError, match="has more than 10 bytes"):
        read_regular(path, most=10)


def test_a_file_of_the_system_that_says_it_is_empty_is_cut_off():
    with pytest.raises(DposcopeError, match="has more than 3 bytes"):
        read_regular(Path("/proc/self/status"), most=3)
