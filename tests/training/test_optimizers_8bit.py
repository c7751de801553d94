"""Training with the optimisers of bitsandbytes, where it is installed: on a model whose tensors are large enough."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, TrainerCallback

from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.model.language_model import LanguageModel
from dposcope.training.batches.examples import tokenise
from dposcope.training.collator import Material
from dposcope.training.objective import Objective
from dposcope.training.optimizers import KINDS
from dposcope.training.schedule import Schedule
from dposcope.training.train import Trained, train_policy
from dposcope.training.trainable import all_weights
from helpers.families import bos_tokenizer, build
from helpers.preferences import pairs_file, tiny_pairs

bnb = pytest.importorskip("bitsandbytes", reason="pip install 'dposcope[quantised]'")

RATES = {"rmsprop": 3e-4, "adamw": 1e-3}


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def large(request) -> LanguageModel:
    """Its projections have 4,096 numbers or more, its norms 64."""
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=request.param,
        eos_token_id=1,
    )
    return LanguageModel(build(config), bos_tokenizer(), "large")


class Stopped(BaseException):
    pass


class Keep(TrainerCallback):
    """Keeps the optimiser's states; stops where it is told."""

    def __init__(self, stop: int | None = None) -> None:
        self._stop = stop
        self.states: list[dict] = []

    def on_step_end(self, args, state, control, optimizer, **kwargs):
        self.states = list(optimizer.optimizer.state.values())
        if state.global_step == self._stop:
            raise Stopped


def trained(lm: LanguageModel, optimizer: str, folder: Path, keep: Keep, **given) -> tuple[Trained, dict]:
    """Eight steps of all weights."""
    examples = tokenise(lm, tiny_pairs())
    schedule = Schedule(
        optimizer=optimizer, learning_rate=RATES[optimizer.removesuffix("-8bit")], batch_size=4, steps=8,
        validate_every=3,
    )  # fmt: skip
    with all_weights(lm, Objective(kl_weight=0.05)) as trainable:
        material = Material(examples[:12], examples[12:18])
        done = train_policy(lm, trainable, material, schedule, folder=folder, callbacks=[keep], **given)
        return done, {name: value.detach().clone() for name, value in trainable.policy.trainable.items()}


@pytest.mark.parametrize("name", RATES)
def test_it_learns_as_in_32_bits_with_a_byte_for_each_state(name, large, tmp_path, capfd):
    keep, wide = Keep(), Keep()
    done, values = trained(large, f"{name}-8bit", tmp_path / "a", keep, save=False)
    plain, others = trained(large, name, tmp_path / "b", wide, save=False)
    losses, expected = ([entry["loss"] for entry in one.history if "loss" in entry] for one in (done, plain))
    assert expected[-1] < 0.9 * expected[0]
    assert losses == pytest.approx(expected, rel=0.05)
    assert any(not torch.equal(values[one], others[one]) for one in values)
    assert capfd.readouterr() == ("", "")
    # Codes for projections; 32 bits for the embedding, as Trainer asks, and for norms, which are small.
    names = [one for one in ("state1", "state2") if one in keep.states[0]]
    assert len(names) == KINDS[name].states
    count = {dtype: sum(one[names[0]].numel() for one in keep.states if one[names[0]].dtype == dtype)
             for dtype in (torch.uint8, torch.float32)}  # fmt: skip
    embedding, norms = 96 * 64, 5 * 64
    assert count[torch.float32] == embedding + norms
    trained_numbers = sum(one.numel() for one in values.values())
    assert count[torch.uint8] == trained_numbers - embedding - norms
    taken = sum(one[part].nbytes for one in keep.states for part in (*names, "absmax1", "absmax2") if part in one)
    estimated = KINDS[f"{name}-8bit"].state_bytes(trained_numbers, embedding=embedding)
    assert taken == pytest.approx(estimated, rel=0.05)


@pytest.mark.parametrize("name", RATES)
def test_stopped_it_ends_with_the_same_bits(name, large, tmp_path):
    undisturbed, expected = trained(large, f"{name}-8bit", tmp_path / "undisturbed", Keep())
    with pytest.raises(Stopped):
        trained(large, f"{name}-8bit", tmp_path / "stopped", Keep(5))
    stored = torch.load(tmp_path / "stopped" / "checkpoint-3" / "optimizer.pt", weights_only=True)
    assert any(value.dtype == torch.uint8 for value in _tensors(stored))
    resumed, values = trained(large, f"{name}-8bit", tmp_path / "stopped", Keep())
    assert all(torch.equal(values[one], expected[one]) for one in expected)
    assert resumed.history == undisturbed.history
    manager = bnb.optim.GlobalOptimManager.get_instance()
    assert (manager.pid2config, manager.module_weight_config_triple) == ({}, [])


def _tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)


def test_the_command_takes_it(large, tmp_path):
    lm = replace(large)
    lm.save_pretrained(tmp_path / "model")
    settings = DpoSettings(
        pairs=str(pairs_file(tmp_path / "pairs.jsonl")), optimizer="rmsprop-8bit", max_examples=16, kl_on="pairs",
        precompute_reference=True, recompute=True, device="cpu", dtype="float32",
    )  # fmt: skip
    done = run_dpo(str(tmp_path / "model"), tmp_path / "out", settings)
    assert done.record.schedule.optimizer == "rmsprop-8bit"
    assert "rmsprop-8bit, learning rate 1e-05" in (tmp_path / "out/model/README.md").read_text()
