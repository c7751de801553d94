"""The embedded model, loaded once, and one small edit of it by the command that people type."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

import dposcope
from dposcope.model.language_model import LanguageModel

MODEL = "gemma-3-270m"


@dataclass(frozen=True)
class Loaded:
    """A model, and what it was when it came from the disk."""

    lm: LanguageModel
    fingerprint: str


@pytest.fixture(scope="session")
def loaded() -> Loaded:
    """In float32, where hooks and folded weights may differ by rounding alone."""
    lm = dposcope.load(MODEL, dtype="float32", device="cpu")
    return Loaded(lm, lm.fingerprint)


@pytest.fixture(scope="session")
def gemma(loaded) -> LanguageModel:
    """The one model that all share; the last test looks whether it was left alone."""
    return loaded.lm


@dataclass(frozen=True)
class Finished:
    """A command that ran to its end."""

    folder: Path
    out: str
    err: str
    seconds: float


@pytest.fixture(scope="session")
def edited(gemma, tmp_path_factory) -> Finished:
    """`dposcope edit` with the built-in data; the strength is given, as a search would take minutes."""
    folder = tmp_path_factory.mktemp("real") / "out"
    arguments = {
        "--out": folder,
        "--limit": 16,
        "--max-windows": 1,
        "--max-passages": 2,
        "--direction-rows": 60,
        "--alpha": 0.03,
        "--ablate": 1,
        "--device": "cpu",
    }
    start = time.monotonic()
    done = subprocess.run(
        [
            Path(sys.executable).with_name("dposcope"),
            *("edit", MODEL, "--no-controls", "--no-learned"),
            *(str(part) for pair in arguments.items() for part in pair),
        ],
        # Threads that wait without spinning: the machine may have other work.
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Finished(folder, done.stdout, done.stderr, time.monotonic() - start)
