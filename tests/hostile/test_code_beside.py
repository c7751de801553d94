"""Code that comes with a file does not run: modules beside weights, and pickles in their place."""

import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from dposcope.errors import DposcopeError
from dposcope.evaluation.scorers import load_scorer
from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.model.load import load
from dposcope.training.checkpoints import seal
from helpers.adapters import lora, write_adapter
from helpers.families import tiny
from helpers.jobs import make_job
from helpers.preferences import pairs_file

HARM = "harm"
"""The file that the code would make, in the working folder."""
MODULE = f"open({HARM!r}, 'w').close()\nclass Own: ...\n"
MAP = {f"Auto{kind}": "own.Own" for kind in ("Config", "ModelForCausalLM", "ModelForSequenceClassification")}


class Harm:
    """A pickle of it makes the file when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(HARM),)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def change(file: Path, **values: object) -> None:
    """Set values of a JSON file, which may not be there."""
    held = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps(held | values))


def model(folder: Path) -> Path:
    tiny("llama").save_pretrained(folder)
    (folder / "own.py").write_text(MODULE)
    return folder


def config_of_another_kind(folder: Path) -> None:
    change(model(folder) / "config.json", model_type="own", auto_map=MAP)
    load(folder)


def config_of_a_known_kind(folder: Path) -> None:
    change(model(folder) / "config.json", auto_map=MAP)
    load(folder)


def config_that_trusts_itself(folder: Path) -> None:
    change(model(folder) / "config.json", model_type="own", auto_map=MAP, trust_remote_code=True)
    load(folder)


def tokenizer(folder: Path) -> None:
    own = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}, "trust_remote_code": True}
    change(model(folder) / "tokenizer_config.json", **own)
    load(folder)


def processor_and_generation(folder: Path) -> None:
    model(folder)
    change(folder / "generation_config.json", auto_map=MAP, custom_generate="own.py")
    change(folder / "processor_config.json", auto_map={"AutoProcessor": "own.Own"})
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(MODULE)
    load(folder)


def adapter(folder: Path) -> None:
    base = tiny("llama")
    write_adapter(base, lora("llama"), folder)
    (folder / "own.py").write_text(MODULE)
    change(folder / "adapter_config.json", auto_mapping={"parent_library": "own", "base_model_class": "Own"})
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Own", None]}, tokenizer_class="Own")
    load(folder, base=base)


def classifier(folder: Path) -> None:
    change(model(folder) / "config.json", model_type="own", auto_map=MAP, architectures=["Own"])
    load_scorer(str(folder))(["the sea"])


def pickled_model(folder: Path) -> None:
    (model(folder) / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm()))
    load(folder)


def pickle_named_safetensors(folder: Path) -> None:
    (model(folder) / "model.safetensors").write_bytes(pickle.dumps(Harm()))
    load(folder)


def pickled_adapter(folder: Path) -> None:
    base = tiny("llama")
    write_adapter(base, lora("llama"), folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Harm()))
    load(folder, base=base)


def pickled_classifier(folder: Path) -> None:
    (model(folder) / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Harm()))
    load_scorer(str(folder))(["the sea"])


CASES: list[Callable[[Path], None]] = [
    *(config_of_another_kind, config_of_a_known_kind, config_that_trusts_itself, tokenizer, processor_and_generation),
    *(adapter, classifier, pickled_model, pickle_named_safetensors, pickled_adapter, pickled_classifier),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_nothing_that_comes_with_a_model_runs(case, tmp_path):
    with suppress(DposcopeError):
        case(tmp_path / "sent")
    assert not Path(HARM).exists()


def test_this_code_would_run_if_it_were_trusted(tmp_path):
    change(model(tmp_path / "sent") / "config.json", model_type="own", auto_map=MAP)
    with pytest.raises(Exception, match="Own"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "sent", trust_remote_code=True)
    assert Path(HARM).exists()


def test_these_pickles_would_run_if_they_were_trusted(tmp_path):
    (tmp_path / "sent.bin").write_bytes(pickle.dumps(Harm()))
    with suppress(Exception):
        torch.load(tmp_path / "sent.bin", weights_only=False)
    assert Path(HARM).exists()


@dataclass(frozen=True)
class HalfDone:
    """A run of `dpo` that ended after a checkpoint."""

    model: str
    settings: DpoSettings
    folder: Path


def forged(begun: Path, folder: Path, name: str) -> Path:
    """Copy a run, and put a pickle into its checkpoint, which then looks whole; the checkpoint."""
    shutil.copytree(begun, folder)
    (checkpoint,) = {file.parent for file in folder.rglob("optimizer.pt")}
    torch.save({"state": Harm()}, checkpoint / name)
    seal(checkpoint)
    return checkpoint


@pytest.fixture(scope="module")
def half_done(tmp_path_factory) -> HalfDone:
    folder = tmp_path_factory.mktemp("half")
    job = make_job(folder / "job")
    settings = DpoSettings(
        pairs=str(pairs_file(folder / "pairs.jsonl")),
        learn_text=str(job.neutral),
        train="gains",
        epochs=2,
        batch_size=4,
        validation=5,
        validate_every=8,
        window_tokens=12,
        window_pool=9,
        device="cpu",
    )

    def end(*_: object, **_more: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr("dposcope.training.trainer.remove_older", end)
        run_dpo(str(job.model), folder / "run", settings)
    assert list((folder / "run").rglob("optimizer.pt"))
    return HalfDone(str(job.model), settings, folder / "run")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_pickles_in_the_checkpoint_of_a_training_do_not_run(half_done, tmp_path, name):
    checkpoint = forged(half_done.folder, tmp_path / "run", name)
    with pytest.raises(DposcopeError, match=rf"{checkpoint} holds more than numbers, so reading it could run"):
        run_dpo(half_done.model, tmp_path / "run", half_done.settings)
    assert not Path(HARM).exists()


def test_a_pickle_that_no_checkpoint_has_is_not_read(half_done, tmp_path):
    forged(half_done.folder, tmp_path / "run", "training_args.bin")
    run_dpo(half_done.model, tmp_path / "run", half_done.settings)
    assert not Path(HARM).exists()
