"""Optimisers by name, what their states take, and those of 8 bits without their package: a stand-in is in its place."""

import sys
from types import ModuleType, SimpleNamespace
from typing import get_args

import pytest
import torch
from torch import nn
from transformers import TrainerCallback
from transformers.training_args import OptimizerNames

from dposcope.errors import DposcopeError
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.model.quantised import loading
from dposcope.training import train
from dposcope.training.batches.examples import tokenise
from dposcope.training.collator import Material
from dposcope.training.objective import Objective
from dposcope.training.optimizers import KINDS, Optimizer, check_optimizer, own_overrides
from dposcope.training.schedule import Schedule
from dposcope.training.train import train_policy
from dposcope.training.trainable import neuron_gains
from helpers.preferences import tiny_pairs

CPU = torch.device("cpu")
CODED = ("rmsprop-8bit", "adamw-8bit")


class Manager:
    """What bitsandbytes knows of single tensors, for the whole process."""

    _one: "Manager | None" = None

    @classmethod
    def get_instance(cls) -> "Manager":
        if cls._one is None:
            cls._one = cls()
            cls._one.initialize()
        return cls._one

    def initialize(self) -> None:
        self.pid2config: dict[int, dict] = {}
        self.module_weight_config_triple: list[tuple] = []


class Steps(torch.optim.SGD):
    """Moves weights as it is told with `moving`."""

    moving = 1.0

    def __init__(self, params, lr: float, optim_bits: int) -> None:
        assert optim_bits == 8
        super().__init__(params, lr=lr * self.moving)


class Fails(Steps):
    def step(self, closure=None):
        raise NotImplementedError("no kernel for it\nand more")


@pytest.fixture
def stand_in(monkeypatch):
    """Puts a package of a class in the place of bitsandbytes; gives its manager."""

    def put(made: type) -> Manager:
        package, below = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.optim")
        Manager._one = None
        vars(below).update(RMSprop=made, AdamW=made, GlobalOptimManager=Manager)
        vars(package).update(optim=below)
        monkeypatch.setitem(sys.modules, "bitsandbytes", package)
        monkeypatch.setitem(sys.modules, "bitsandbytes.optim", below)
        monkeypatch.setattr(loading, "find_spec", lambda name: name)
        monkeypatch.setattr("transformers.utils.import_utils.is_bitsandbytes_available", lambda: True)
        return Manager.get_instance()

    return put


def test_every_name_has_its_kind_and_trainer_knows_it():
    assert get_args(Optimizer) == tuple(KINDS)
    assert {name: OptimizerNames(kind.trainer) for name, kind in KINDS.items()} == {
        "rmsprop": OptimizerNames.RMSPROP,
        "adamw": OptimizerNames.ADAMW_TORCH,
        "rmsprop-8bit": OptimizerNames.RMSPROP_8BIT,
        "adamw-8bit": OptimizerNames.ADAMW_BNB,
    }
    for name in KINDS:
        assert DpoSettings(pairs="p.jsonl", optimizer=name).schedule(10, autocast=False).optimizer == name


@pytest.mark.parametrize("name", KINDS)
def test_trainer_is_told_the_name(name, llama, tmp_path, monkeypatch):
    class Told(Exception):
        pass

    def arguments(**given):
        raise Told(given["optim"])

    monkeypatch.setattr(train, "check_optimizer", lambda asked, device: asked)
    monkeypatch.setattr(train, "TrainingArguments", arguments)
    examples = tokenise(llama, tiny_pairs())
    with neuron_gains(llama, Objective()) as trainable, pytest.raises(Told, match=f"^{KINDS[name].trainer}$"):
        train_policy(llama, trainable, Material(examples, examples), Schedule(optimizer=name), folder=tmp_path)


def test_states_are_counted_tensor_by_tensor():
    """Against the tensors that bitsandbytes documents: codes, a scale for 256 of them, an embedding in 32 bits."""
    embedding, others = nn.Embedding(40, 256), [torch.zeros(64, 256), torch.zeros(256, 512)]
    trained = embedding.weight.numel() + sum(one.numel() for one in others)

    def naive(states: int, *, coded: bool) -> int:
        if not coded:
            return sum(4 * states * one.numel() for one in (embedding.weight, *others))
        kept = [torch.zeros_like(embedding.weight)]
        for one in others:
            kept += [torch.zeros(one.shape, dtype=torch.uint8), torch.zeros(one.numel() // 256)]
        return states * sum(one.nbytes for one in kept)

    for name, states in {"rmsprop": 1, "adamw": 2}.items():
        assert KINDS[name].state_bytes(trained) == naive(states, coded=False)
        coded = KINDS[f"{name}-8bit"].state_bytes(trained, embedding=embedding.weight.numel())
        assert coded == naive(states, coded=True)
        assert coded < 0.4 * naive(states, coded=False)


@pytest.mark.parametrize("name", CODED)
def test_a_missing_package_is_told_in_a_line(name, monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda _name: None)
    line = f"the optimiser {name} needs the package bitsandbytes; install it with: pip install 'dposcope[quantised]'"
    with pytest.raises(DposcopeError) as told:
        check_optimizer(name, CPU)
    assert str(told.value) == line
    for other in ("rmsprop", "adamw"):
        check_optimizer(other, CPU)


def test_a_package_that_cannot_run_it_here_is_told_in_a_line(stand_in, monkeypatch):
    stand_in(Fails)
    line = "the installed bitsandbytes cannot run the optimiser adamw-8bit on cpu ({}); renew it, or choose adamw"
    with pytest.raises(DposcopeError) as told:
        check_optimizer("adamw-8bit", CPU)
    assert str(told.value) == line.format("no kernel for it")
    stand_in(Steps)
    check_optimizer("rmsprop-8bit", CPU)
    for moving in (0.0, float("nan")):
        monkeypatch.setattr(Steps, "moving", moving)
        with pytest.raises(DposcopeError, match=r"cannot run .* \(a step of it does not move weights\)"):
            check_optimizer("rmsprop-8bit", CPU)
    monkeypatch.setattr("transformers.utils.import_utils.is_bitsandbytes_available", lambda: False)
    with pytest.raises(DposcopeError, match=r"cannot run .* \(it is older than transformers needs\); renew it"):
        check_optimizer("rmsprop-8bit", CPU)


def test_want_of_memory_is_no_fault_of_the_package(stand_in):
    class Full(Steps):
        def step(self, closure=None):
            raise MemoryError("full")

    stand_in(Full)
    with pytest.raises(MemoryError):
        check_optimizer("adamw-8bit", CPU)


def test_what_a_training_tells_the_package_ends_with_it(stand_in):
    manager = stand_in(Steps)
    manager.pid2config[1] = {"optim_bits": 32}
    before = dict(vars(manager))

    def train_within() -> None:
        with own_overrides("adamw-8bit"):
            assert vars(manager) == {"pid2config": {}, "module_weight_config_triple": []}
            manager.module_weight_config_triple.append((nn.Embedding(2, 2), "weight", {}))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_within()
    assert vars(manager) == before == {"pid2config": {1: {"optim_bits": 32}}, "module_weight_config_triple": []}
    with own_overrides("adamw"):
        assert vars(manager) == before


@pytest.mark.parametrize("name", ["rmsprop", "adamw"])
def test_tensors_are_moved_one_after_another(name, llama, tmp_path):
    """All at once takes a copy of them; the numbers are the same."""
    seen = []

    class Look(TrainerCallback):
        def on_step_end(self, args, state, control, optimizer, **kwargs):
            seen.extend(group["foreach"] for group in optimizer.param_groups)

    examples = tokenise(llama, tiny_pairs())
    schedule = Schedule(optimizer=name, steps=1, validate_every=1)
    with neuron_gains(llama, Objective()) as trainable:
        material = Material(examples[:4], examples[4:6])
        train_policy(llama, trainable, material, schedule, folder=tmp_path, save=False, callbacks=[Look()])
    assert set(seen) == {False}
    kind = {"rmsprop": torch.optim.RMSprop, "adamw": torch.optim.AdamW}[name]
    results = []
    for together in (True, False):
        draw = torch.Generator().manual_seed(0)
        weights = [nn.Parameter(torch.randn(size, generator=draw)) for size in (5, 40, 3)]
        optimizer = kind(weights, lr=1e-2, foreach=together)
        for _ in range(3):
            for one in weights:
                one.grad = torch.randn(one.shape, generator=draw)
            optimizer.step()
        results.append(SimpleNamespace(weights=weights))
    for one, other in zip(results[0].weights, results[1].weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)
