"""What a distribution must hold, and what it must not."""

import io
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "tools"))

import release

SOURCES = {"src/dposcope/__init__.py", "src/dposcope/py.typed", "src/dposcope/data/seeds.json"}
ABOUT = {
    f"dposcope-1.0.0.dist-info/{name}"
    for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")
}
WHOLE = {name.removeprefix("src/") for name in SOURCES} | ABOUT


@pytest.mark.parametrize(
    ("less", "more", "told"),
    [
        (set(), {}, []),
        ({"dposcope/py.typed"}, {}, ["dposcope/py.typed is missing"]),
        ({"dposcope-1.0.0.dist-info/licenses/LICENSE"}, {}, ["dposcope-1.0.0.dist-info/licenses/LICENSE is missing"]),
        (set(), {"tests/conftest.py": b""}, ["tests/conftest.py does not belong there"]),
        (set(), {"dposcope/notes.txt": b""}, ["dposcope/notes.txt does not belong there"]),
        (
            {"dposcope/data/seeds.json"},
            {"dposcope/data/seeds.json": bytes(1_000_001)},
            ["dposcope/data/seeds.json has 1,000,001 bytes"],
        ),
    ],
)
def test_a_wheel_holds_the_package_and_nothing_else(tmp_path, less, more, told):
    with zipfile.ZipFile(tmp_path / "it.whl", "w") as wheel:
        for name, content in (dict.fromkeys(WHOLE - less, b"") | more).items():
            wheel.writestr(name, content)
        assert release.faults_of_wheel(wheel, SOURCES) == told


def test_a_source_distribution_holds_only_what_git_knows(tmp_path):
    known = SOURCES | release.SDIST | {"tests/conftest.py"}
    with tarfile.open(tmp_path / "it.tar.gz", "w:gz") as sdist:
        for name in [*sorted(known - {"LICENSE"}), "PKG-INFO", "runs/secret.json"]:
            sdist.addfile(tarfile.TarInfo(f"dposcope-1.0.0/{name}"), io.BytesIO())
    with tarfile.open(tmp_path / "it.tar.gz") as sdist:
        assert release.faults_of_sdist(sdist, known) == ["LICENSE is missing", "runs/secret.json does not belong there"]


def test_all_files_name_the_same_version():
    assert release.faults_of_versions() == []
