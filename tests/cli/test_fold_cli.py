"""`dposcope fold`: every form by the command, what it refuses, and what a kill or a full disk leaves."""

import json
import shutil

import pytest
import torch
from peft import PeftConfig

from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from helpers.families import random_direction, random_gains
from helpers.gguf_files import wide, write
from helpers.jobs import command, contents, crashes

pytestmark = pytest.mark.usefixtures("light")


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    """Texts are not broken where a terminal would end."""
    monkeypatch.setenv("COLUMNS", "400")


@pytest.fixture
def base(llama, tmp_path):
    """A checkpoint in several files, and in the folder `run` what an edit left."""
    llama.model.save_pretrained(tmp_path / "base", max_shard_size="20KB")
    llama.tokenizer.save_pretrained(tmp_path / "base")
    edit = Edit.of(Gains(random_gains(llama)), ablate(random_direction(llama)))
    edit.save(tmp_path / "run/edit")
    return tmp_path / "base"


def test_a_checkpoint(base, capsys, tmp_path):
    told = command(capsys, "fold", base, "--edit", tmp_path / "run/edit.safetensors", "--out", tmp_path / "out")
    assert (told.code, told.err) == (0, "")
    assert f"checkpoint: {tmp_path / 'out'}" in told.out
    assert "tensors:  6 changed" in told.out
    assert (tmp_path / "out/model.safetensors.index.json").exists()


def test_adapters_by_the_folder_of_the_run(base, capsys, tmp_path):
    told = command(
        capsys, "fold", base, "--edit", tmp_path / "run", "--out", tmp_path / "out", "--form", "adapters", "--json"
    )
    assert (told.code, told.err) == (0, "")
    said = json.loads(told.out)
    assert said == {"form": "adapters", "path": str(tmp_path / "out"), "tensors": 15, "rounding": 0.0, "notes": []}
    kinds = {
        name: PeftConfig.from_pretrained(tmp_path / "out" / name).peft_type.value for name in ("gains", "ablation")
    }
    assert kinds == {"gains": "IA3", "ablation": "LORA"}


def test_gains_alone_leave_the_ablation_out(base, tmp_path, capsys):
    told = command(
        capsys,
        "fold",
        base,
        "--edit",
        tmp_path / "run",
        "--gains-alone",
        "--out",
        tmp_path / "alone",
        "--form",
        "adapters",
    )
    assert told.code == 0, told.err
    assert (tmp_path / "alone").exists()
    assert not list((tmp_path / "alone").rglob("*lora*"))
    assert "ablation" not in {path.name for path in (tmp_path / "alone").rglob("*")}
    Edit.of(Edit.load(tmp_path / "run/edit").ablations[0]).save(tmp_path / "only/edit")
    told = command(capsys, "fold", base, "--edit", tmp_path / "only", "--gains-alone", "--out", tmp_path / "none")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "no gains of neurons" in told.err


def test_another_strength(base, tmp_path, capsys):
    """Folded at half strength: the checkpoint that the edit at half strength makes."""
    half = Edit.load(tmp_path / "run/edit").strength(0.5)
    half.save(tmp_path / "half/edit")
    for name, flags in (
        ("asked", ["--edit", tmp_path / "run", "--strength", "0.5"]),
        ("made", ["--edit", tmp_path / "half"]),
    ):
        told = command(capsys, "fold", base, *flags, "--out", tmp_path / name)
        assert (told.code, told.err) == (0, "")
    shards = sorted(path.name for path in (tmp_path / "made").glob("*.safetensors"))
    assert shards
    for shard in shards:
        one, other = ((tmp_path / name / shard).read_bytes() for name in ("asked", "made"))
        assert one == other
    told = command(capsys, "fold", base, "--edit", tmp_path / "run", "--strength", "nan", "--out", tmp_path / "none")
    assert (told.code, told.err.count("\n")) == (2, 1)


@pytest.mark.parametrize("nowhere", ["", ".", "/"])
def test_a_folder_without_an_edit_is_told_whatever_it_is_called(base, tmp_path, capsys, monkeypatch, nowhere):
    monkeypatch.chdir(tmp_path)
    told = command(capsys, "fold", base, "--edit", nowhere, "--out", tmp_path / "none")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "give edit.safetensors, or the folder of a finished run" in told.err


def test_a_gguf_file(capsys, tmp_path):
    lm = wide("llama")
    write(lm, tmp_path / "base.gguf", "Q4_0")
    Edit.of(Gains(random_gains(lm)), about={"fingerprint": "llama-0f"}).save(tmp_path / "edit")
    told = command(capsys, "fold", tmp_path / "base.gguf", "--edit", tmp_path / "edit", "--out", tmp_path / "out.gguf")
    assert (told.code, told.err) == (0, "")
    assert "tensors:  3 changed" in told.out
    assert "note:     only the shape, 3×24 neurons, was checked" in told.out
    assert (tmp_path / "out.gguf").stat().st_size == (tmp_path / "base.gguf").stat().st_size


def test_bad_input_is_told_in_one_line(base, capsys, tmp_path):
    write(wide("llama"), tmp_path / "base.gguf")
    shutil.copytree(base, tmp_path / "there")
    run, out = tmp_path / "run", tmp_path / "out"
    for arguments, said in (
        ((base, "--edit", tmp_path / "nothing", "--out", out), "no edit at"),
        ((base, "--edit", base, "--out", out), "holds no edit.safetensors; name an edit's file"),
        ((base, "--edit", run, "--out", tmp_path / "there"), "exists already"),
        ((tmp_path / "gone", "--edit", run, "--out", out), "is not a model"),
        ((tmp_path / "gone.gguf", "--edit", run, "--out", tmp_path / "out.gguf"), "no file"),
        (
            (tmp_path / "base.gguf", "--edit", run, "--out", tmp_path / "out.gguf"),
            "has an ablation too; leave that out with --gains-alone",
        ),
        ((tmp_path / "base.gguf", "--edit", run, "--out", out), "must end in .gguf"),
        ((tmp_path / "base.gguf", "--edit", run, "--out", out, "--form", "adapters"), "a GGUF file cannot become"),
        (
            (tmp_path / "base.gguf", "--edit", run, "--out", tmp_path / "out.gguf", "--layout", tmp_path / "l.toml"),
            "--layout is for a folder, and a .gguf file names its own tensors; leave --layout out",
        ),
        ((base, "--edit", run, "--out", out, "--form", "gguf"), "--form"),
        ((base, "--edit", run), "--out"),
    ):
        before = sorted(tmp_path.iterdir())
        told = command(capsys, "fold", *arguments)
        assert told.code == 2, arguments
        assert said in told.err
        assert told.err.startswith("dposcope: ")
        assert len(told.err.splitlines()) == 1
        assert sorted(tmp_path.iterdir()) == before


def test_help_describes_every_option(capsys):
    page = command(capsys, "fold", "--help").out
    for option in ("--edit", "--out", "--form", "--json"):
        assert option in page
    assert "dposcope fold model.gguf" in page


@pytest.mark.slow
@pytest.mark.parametrize("form", ["checkpoint", "adapters"])
def test_a_kill_at_any_moment_leaves_nothing_half_written(base, capsys, tmp_path, form):
    """Killed before its first change of files, its fourth, and so on; each try finds what the last one left."""
    arguments = ["fold", str(base), "--edit", str(tmp_path / "run"), "--form", form]
    assert command(capsys, *arguments, "--out", tmp_path / "whole").code == 0
    (tmp_path / "away").mkdir()
    out = tmp_path / "away/out"
    tries = crashes("killed", arguments=[*arguments, "--out", str(out)], changes=list(range(1, 60, 3)))
    codes = [one["code"] for one in tries]
    killed = codes.index(next(code for code in codes if code != -9))
    assert killed > 5
    assert contents(out) == contents(tmp_path / "whole")
    if codes[-1] == 0:
        assert killed == len(codes) - 1
        assert [path.name for path in (tmp_path / "away").iterdir()] == ["out"]
        return
    # Killed with the result in its place and the lock still there: it is whole, and the next try says so.
    assert set(codes[killed:]) == {2}
    assert all("exists already" in one["err"] for one in tries[killed:])
    assert {path.name for path in (tmp_path / "away").iterdir()} <= {"out", ".out.lock"}


@pytest.mark.slow
def test_a_full_disk_is_told_and_leaves_nothing(base, tmp_path):
    (tmp_path / "away").mkdir()
    out = tmp_path / "away/out"
    largest = max(file.stat().st_size for file in base.iterdir())
    arguments = ["fold", str(base), "--edit", str(tmp_path / "run"), "--out", str(out)]
    tries = crashes(
        "space", arguments=arguments, limits=[0, 100, 5000, largest - 1, 1 << 30], out=str(tmp_path / "away")
    )
    for one in tries[:-1]:
        assert one["code"] == 2, one
        assert one["left"] == []
        assert "free some space" in one["err"]
    assert tries[-1]["code"] == 0
    assert torch.equal(Edit.load(out / "dposcope_edit").gains.values, Edit.load(tmp_path / "run/edit").gains.values)
