"""Results that a disk or a hand has changed are made again, or refused; none of them is believed."""

import itertools
import re
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from dposcope.artefacts import write_json
from dposcope.jobs.finished import Finished, own_files
from dposcope.jobs.ownership import RUN, marked
from helpers.damage import flip, results
from helpers.every_command import ORDERS, Ground, make_ground
from helpers.jobs import command

pytestmark = pytest.mark.usefixtures("lighter")

RESUMED = ["edit", "evaluate", "tune", "pairs", "dpo-gains", "dpo-full"]
"""Commands that load what they find, beside `explain`. `probe` and `fold` always compute."""
WAYS: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "emptied": lambda file: file.write_bytes(b""),
    "cut": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "gone": Path.unlink,
}


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Ground:
    return make_ground(tmp_path_factory.mktemp("ground"))


@dataclass(frozen=True)
class Whole:
    """A run that nothing disturbed."""

    folder: Path
    backup: Path

    @contextmanager
    def disturbed(self) -> Generator[Path]:
        """Its folder, in its place; restored afterwards."""
        yield self.folder
        shutil.rmtree(self.folder)
        shutil.copytree(self.backup, self.folder)


@pytest.fixture(scope="module")
def finished(ground, tmp_path_factory) -> Callable[..., Whole]:
    """By the name of the command; run twice, as a person might."""
    made: dict[str, Whole] = {}

    def of(name: str, capsys) -> Whole:
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            for _ in range(2):
                told = command(capsys, *ORDERS[name].given(ground, folder))
                assert told.code == 0, told.err
            made[name] = Whole(folder, shutil.copytree(folder, tmp_path_factory.mktemp("backup") / name))
        return made[name]

    return of


def result_files(folder: Path) -> list[Path]:
    """Those that hold results: no lock, no record, not what says how the run was asked for."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and "stages" not in file.parts and not file.name.startswith(".") and file.name != "run.json"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "way"), [*itertools.product(RESUMED, WAYS), ("explain", "flipped")])
def test_every_damaged_file_is_as_it_was_after_the_same_command(ground, finished, capsys, name, way):
    """All files at once: one that went unnoticed would stay as it is."""
    run = finished(name, capsys)
    with run.disturbed() as folder:
        for file in result_files(folder):
            if file.stat().st_size:
                WAYS[way](file)
        told = command(capsys, *ORDERS[name].given(ground, folder))
        if told.code:  # a file that the command does not know for its own any more
            assert (told.code, told.err.count("\n")) == (2, 1), told.err
        else:
            found, before = results(folder), results(run.backup)
            assert found.keys() == before.keys()
            assert [file for file in found if found[file] != before[file]] == []


@pytest.mark.parametrize("name", RESUMED)
def test_a_damaged_record_or_settings_file_is_told_or_made_again(ground, finished, capsys, name):
    """One after another, since each stops the command."""
    run = finished(name, capsys)
    records = [file for file in sorted(run.folder.rglob("*.json")) if "stages" in file.parts or file.name == "run.json"]
    assert records or name == "pairs"
    for record, way in zip(records, itertools.cycle(WAYS), strict=False):
        with run.disturbed() as folder:
            WAYS[way](record)
            told = command(capsys, *ORDERS[name].given(ground, folder))
            where = f"{record.relative_to(folder)} {way}: {told.err}"
            if told.code:
                assert (told.code, told.err.count("\n")) == (2, 1), where
                assert str(folder) in told.err, where
            else:
                found, before = results(folder), results(run.backup)
                assert [file for file in before if found.get(file) != before[file]] == [], where


def test_facts_of_pairs_that_were_changed_are_not_repeated(ground, finished, capsys):
    run = finished("pairs", capsys)
    with run.disturbed() as folder:
        file = folder / "pairs.json"
        file.write_text(re.sub(r'"harmless": \d+', '"harmless": 0', file.read_text()))
        told = command(capsys, *ORDERS["pairs"].given(ground, folder))
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert f"delete it and {folder / 'pairs.jsonl'}" in told.err


@pytest.mark.parametrize("file", ["explain.json", "scores.json", "tables.json"])
def test_a_report_does_not_repeat_changed_numbers(tmp_path, capsys, file):
    """A run of `explain` as far as a report reads it."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("explain.json", "scores.json", "tables.json"):
        write_json(folder / name, {"kind": "dposcope explain", "toxicity": 0.25})
    end = Finished.of(folder, own_files(folder, but=set()), read={}, code="")
    told = {"command": "explain", "settings": {}, "free": {}, "versions": {}, "finished": end.to_json()}
    write_json(folder / "run.json", marked(RUN, told))
    (folder / file).write_text((folder / file).read_text().replace("0.25", "0.00"))
    told = command(capsys, "report", folder, "--out", tmp_path / "report")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert f"{file} is not as it was made; run the same command there again" in told.err
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("place", [0.2, 0.4, 0.5, 0.6, 0.8, 0.97])
def test_a_changed_edit_or_direction_is_refused(ground, capsys, tmp_path, suffix, place):
    for name in ("edit.json", "edit.safetensors"):
        shutil.copyfile(ground.edit.with_name(name), tmp_path / name)
    file = tmp_path / f"edit{suffix}"
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)
    told = command(capsys, "fold", ground.job.model, "--edit", tmp_path / "edit", "--out", tmp_path / "out")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert not (tmp_path / "out").exists()
