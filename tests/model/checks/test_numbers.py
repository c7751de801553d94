"""Weights and logits that are no numbers, and models that cannot be run, are told when a model is loaded."""

import re

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.model.checks.numbers import check_forward, check_weights
from dposcope.model.load import load
from helpers.families import copied, tiny

LAST = "model.layers.2.mlp.down_proj.weight"


def test_a_sound_model_passes(lm):
    check_weights(lm, "m")
    check_forward(lm, "m")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_one_weight_is_found_and_named(llama, dtype, value):
    broken = copied(llama)
    broken.model.to(dtype)
    with torch.no_grad():
        broken.model.get_parameter(LAST)[3, 5] = value
    with pytest.raises(DposcopeError, match=re.escape(f"m is broken: {LAST} holds NaN or infinity; download")):
        check_weights(broken, "m")


def test_it_is_told_on_loading(llama, tmp_path):
    broken = copied(llama)
    with torch.no_grad():
        broken.model.get_parameter(LAST)[0, 0] = float("nan")
    broken.save_pretrained(tmp_path)
    with pytest.raises(DposcopeError, match=f"{LAST} holds NaN or infinity"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("names", "where"),
    [
        (("model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"), "from block 0 on"),
        (("model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"), "from block 1 on"),
        (("model.norm.weight", "lm_head.weight"), "in its logits"),
    ],
)
def test_numbers_out_of_range_are_told_with_the_first_block(names, where):
    """Weights that are finite, and too large to multiply."""
    lm = tiny("llama")
    with torch.no_grad():
        for name in names:
            lm.model.get_parameter(name).mul_(1e25)
    check_weights(lm, "m")
    with pytest.raises(DposcopeError, match=f"m computes NaN or infinity {where}, in float32; load it as float32, or"):
        check_forward(lm, "m")


def test_a_model_that_fails_is_told_and_memory_is_not_its_fault(llama, monkeypatch):
    def failing(error):
        def forward(*_arguments, **_options):
            raise error

        return forward

    lm = copied(llama)
    monkeypatch.setattr(lm.model, "forward", failing(TypeError("unsupported operand\nmore")))
    with pytest.raises(DposcopeError, match=r"m cannot be run \(TypeError: unsupported operand\); download its config"):
        check_forward(lm, "m")
    monkeypatch.setattr(lm.model, "forward", failing(RuntimeError("DefaultCPUAllocator: can't allocate memory")))
    with pytest.raises(RuntimeError, match="allocate memory"):
        check_forward(lm, "m")


def test_no_hook_and_no_mark_is_left(llama):
    """The fixture holds the model against what it was."""
    check_forward(llama, "m")


def test_a_model_with_a_cache_of_its_own_kind_is_refused(llama, monkeypatch):
    """As MiniMax-Text does; it computes without a cache."""
    lm = copied(llama)
    whole = lm.model.forward

    def forward(*args, **options):
        if options.get("use_cache"):
            raise ValueError("a cache of its own")
        return whole(*args, **options)

    monkeypatch.setattr(lm.model, "forward", forward)
    with pytest.raises(DposcopeError, match=r"token by token \(a cache of its own\): models of the type llama are not"):
        check_forward(lm, "m")
