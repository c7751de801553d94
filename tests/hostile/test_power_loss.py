"""A machine that loses its power keeps nothing that looks whole and is not.

Whatever was not flushed may be gone after a crash, and a name may outlive its contents. So of every command it is
recorded what it flushes, and checked at each rename, at each record and at the end.
"""

import json
import os
import stat
from collections import defaultdict
from pathlib import Path

import pytest

from helpers.every_command import ORDERS, Ground, make_ground
from helpers.jobs import command

pytestmark = pytest.mark.usefixtures("lighter")


class Disk:
    """What would be left after a crash, and what is said of it."""

    def __init__(self, monkeypatch) -> None:
        self.faults: list[str] = []
        self._safe: dict[int, tuple[int, int]] = {}
        self._renamed: dict[int, set[str]] = defaultdict(set)
        plain = {name: getattr(os, name) for name in ("fsync", "rename", "replace")}

        def fsync(handle: int) -> None:
            plain["fsync"](handle)
            found = os.fstat(handle)
            self._safe[found.st_ino] = _state(found)
            if stat.S_ISDIR(found.st_mode):
                self._renamed.pop(found.st_ino, None)

        def moving(name: str):
            def move(source, target, **options) -> None:
                self._check_contents(Path(source), f"renamed to {Path(target).name}")
                if Path(target).parent.name == "stages":
                    self._check_record(Path(source), Path(target).parents[1])
                plain[name](source, target, **options)
                self._renamed[Path(target).parent.stat().st_ino].add(Path(target).name)

            return move

        monkeypatch.setattr(os, "fsync", fsync)
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, moving(name))

    def _check_contents(self, path: Path, why: str) -> None:
        inside = [path, *path.rglob("*")] if path.is_dir() else [path]
        self.faults += [
            f"{one} was not flushed before it was {why}"
            for one in inside
            if one.is_file() and self._safe.get(one.stat().st_ino) != _state(one.stat())
        ]

    def _check_record(self, record: Path, folder: Path) -> None:
        for name in json.loads(record.read_text())["files"]:
            self._check_contents(folder / name, f"named in {record.name}")
            self._check_names((folder / name).parent)

    def _check_names(self, folder: Path) -> None:
        lost = self._renamed.get(folder.stat().st_ino)
        if lost:
            self.faults.append(f"the names {lost} in {folder} were not flushed")

    def check_end(self, folder: Path) -> None:
        """All that is left below a folder."""
        for one in [folder, *folder.rglob("*")]:
            if one.is_dir():
                self._check_names(one)
            elif not one.name.startswith(".") and one.name != "journal.log":
                self._check_contents(one, "left")


def _state(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Ground:
    return make_ground(tmp_path_factory.mktemp("ground"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDERS)
def test_what_a_command_leaves_is_on_the_disk(ground, capsys, tmp_path, monkeypatch, name):
    disk = Disk(monkeypatch)
    told = command(capsys, *ORDERS[name].given(ground, tmp_path))
    assert told.code == 0, told.err
    disk.check_end(tmp_path)
    assert disk.faults == []


def test_contents_and_names_that_are_not_flushed_are_noticed(tmp_path, monkeypatch):
    disk = Disk(monkeypatch)
    (tmp_path / "part").write_text("x")
    (tmp_path / "part").rename(tmp_path / "whole")
    disk.check_end(tmp_path)
    assert [fault.partition(" was not")[0].rpartition("/")[2] for fault in disk.faults][:1] == ["part"]
    assert any("names {'whole'}" in fault for fault in disk.faults)
