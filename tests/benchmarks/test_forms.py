"""The benchmark of the forms that an edit ships in: on a tiny model every form is the hooked model."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dposcope as ds
from helpers.families import random_direction, random_gains, tiny
from helpers.jobs import make_job, refused, script

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from forms import Reading, compared, main, table

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gemma3", "llama"])
def test_every_form_is_the_hooked_model(family, tmp_path):
    job, lm = make_job(tmp_path / "job", family), tiny(family)
    edit = ds.Edit.of(ds.Gains(1 + 0.2 * (random_gains(lm) - 1)), ds.ablate(random_direction(lm), weight=0.5))
    edit.save(tmp_path / "edit")
    command = [
        *(BENCHMARKS / "forms.py", "--model", str(job.model)),
        *("--edit", str(tmp_path / "edit.safetensors"), "--prompts", str(job.prompts), "--neutral", str(job.neutral)),
        *("--limit", "6", "--windows", "2", "--forms", "checkpoint,folder,adapters,int8,bfloat16,float16"),
    ]
    # peft asks transformers for a name that will go, and warns of what is meant.
    ignored = ["`is_gradient_checkpointing`", "Already found a `peft_config` attribute"]
    done = script(*command, ignored=ignored)
    told, complaint = done.communicate()
    assert done.returncode == 0, complaint
    rows = {row.split(" | ")[0].strip("| "): row.split(" | ")[1:] for row in told.splitlines()[2:]}
    assert set(rows) == {"checkpoint", "folder", "adapters", "int8", "bfloat16", "float16"}
    for form in ("checkpoint", "folder", "adapters", "int8"):
        texts, logits, loss, _ = rows[form]
        assert texts == "0 of 6"
        assert float(logits) < 1e-4
        assert float(loss) < 1e-5
    assert 0 < float(rows["bfloat16"][1]) < 0.2
    assert 0 < float(rows["float16"][1]) < float(rows["bfloat16"][1])


def test_what_differs_is_counted_and_measured_by_the_size_of_the_edit():
    plain = Reading([[1, 2], [3]], torch.zeros(2, 4), 3.0)
    hooked = Reading([[1, 5], [3]], torch.full((2, 4), 2.0), 3.5)
    found = Reading([[1, 5], [4]], torch.full((2, 4), 1.5), 3.25)
    one = compared("x", found, hooked, plain, 1e-3)
    assert (one.differing, one.prompts, one.logits, one.log_perplexity) == (1, 2, 0.25, 0.25)
    assert table([one]).splitlines()[-1] == "| x | 1 of 2 | 2.5e-01 | 2.5e-01 | 1.0e-03 |"
    assert compared("x", hooked, hooked, plain).logits == 0
    assert (
        table([replace(one, logits=float("nan"))]).splitlines()[-1] == "| x | 1 of 2 | overflows | 2.5e-01 | 1.0e-03 |"
    )


@pytest.mark.parametrize("wrong", [["--forms", "checkpoint,zip"], ["--model", "elsewhere"]])
def test_what_cannot_be_had_is_told(tmp_path, wrong):
    said = refused(main, "--edit", tmp_path / "edit", *wrong)
    assert "no form 'zip'" in said or "give --gguf" in said


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("forms.find_spec", lambda name: None if name == "compressed_tensors" else name)
    said = refused(main, "--edit", tmp_path / "edit", "--model", "m", "--forms", "checkpoint,int8")
    assert said == "forms: int8 needs the compressed_tensors package; install it, or give --forms without int8\n"
