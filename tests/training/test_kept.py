"""What a backward pass keeps, counted without numbers, against the graph of the model itself."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from dposcope.errors import DposcopeError
from dposcope.model.language_model import LanguageModel
from dposcope.training import kept
from dposcope.training.kept import Kept, saved_bytes
from dposcope.training.objective import Objective
from dposcope.training.policy import Arm
from dposcope.training.trainable import low_rank, neuron_gains
from helpers.families import FAMILIES, tiny
from helpers.more_families import MORE

TOKENS = 16
PLAIN = [*FAMILIES, "gemma4_text", "gemma3n_text", "granite", "cohere2", "mpt", "falcon", "hy_v4"]
"""Attention alone, so that nothing depends on a mask that is made of numbers."""
HYBRID = ["qwen3_next", "lfm2", "granitemoehybrid", "falcon_h1"]


def model_of(family: str) -> LanguageModel:
    return MORE[family].build() if family in MORE else tiny(family)


def in_graph(output: torch.Tensor, own: set[int]) -> int:
    """Bytes of all tensors that the nodes of a graph have saved, each once, but for parameters, buffers and numbers."""
    seen, saved, open_ = set(), {}, [output.grad_fn]
    while open_:
        node = open_.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for name in dir(node):
            if not name.startswith("_saved_"):
                continue
            value = getattr(node, name)
            for tensor in value if isinstance(value, list | tuple) else [value]:
                if not isinstance(tensor, torch.Tensor) or tensor.ndim == 0:
                    continue
                if tensor.untyped_storage().data_ptr() not in own:
                    saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        open_ += [one for one, _ in node.next_functions]
    return sum(saved.values())


def naive(arm: Arm) -> int:
    model = arm.model
    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    ids, positions = torch.zeros((1, TOKENS), dtype=torch.long), torch.arange(TOKENS)[None]
    mask = torch.ones((1, 1, TOKENS, TOKENS), dtype=torch.bool).tril()
    if model.config._attn_implementation == "eager":
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    with arm.applied():
        states = model.base_model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False)
        return in_graph(states.last_hidden_state, own)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "qwen3"])
def test_gains_keep_what_their_graph_holds(family):
    lm = tiny(family)
    with neuron_gains(lm, Objective()) as trainable:
        expected = naive(trainable.policy.arms[0])
    assert Kept(lm).per_token("gains", TOKENS) == expected / TOKENS


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_all_weights_keep_what_their_graph_holds(family):
    lm = tiny(family)
    lm.model.requires_grad_(True)
    assert Kept(lm).per_token("full", TOKENS) == naive(Arm(lm.model)) / TOKENS


@pytest.mark.parametrize("train", ["gains", "lora", "full"])
@pytest.mark.parametrize("family", PLAIN)
def test_shapes_alone_tell_what_the_model_keeps(family, train):
    lm = model_of(family)
    with kept._arm(replace(lm, model=copy.deepcopy(lm.model)), train, 16) as arm:
        expected = saved_bytes(arm, TOKENS)
    assert Kept(lm).per_token(train, TOKENS) == expected / TOKENS


@pytest.mark.parametrize("family", HYBRID)
def test_of_blocks_without_attention_it_is_nearly_that(family):
    """A mask that is all ones is left out where numbers are seen."""
    lm = model_of(family)
    with kept._arm(replace(lm, model=copy.deepcopy(lm.model)), "gains", 16) as arm:
        expected = saved_bytes(arm, TOKENS)
    assert Kept(lm).per_token("gains", TOKENS) == pytest.approx(expected / TOKENS, rel=0.06)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "falcon_h1"])
def test_an_adapter_keeps_what_it_reads_in_its_own_precision(family, dtype):
    lm = model_of(family)
    lm.model.to(dtype)
    with low_rank(lm, Objective(), rank=3) as trainable:
        expected = saved_bytes(trainable.policy.arms[0], TOKENS)
    assert Kept(lm).per_token("lora", TOKENS, dtype=dtype, rank=3) == expected / TOKENS


def test_the_model_is_as_before():
    """So is its config: a model that is made from a config writes its precision there."""
    lm = tiny("llama")
    before = lm.model.config.to_dict()
    assert Kept(lm).per_token("lora", TOKENS, dtype=torch.bfloat16)
    assert lm.model.config.to_dict() == before


def test_copies_of_weights_under_autocast_are_counted_elsewhere():
    lm = tiny("llama")
    lm.model.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        everything = naive(Arm(lm.model))
    projections = [module for block in lm.blocks for module in block.modules() if isinstance(module, nn.Linear)]
    copies = 2 * sum(module.weight.numel() for module in projections)
    assert Kept(lm).per_token("full", TOKENS, autocast=True) == (everything - copies) / TOKENS


@pytest.mark.parametrize("family", ["mixtral", "olmoe"])
def test_experts_are_counted_in_bfloat16_where_they_do_not_run_on_shapes_in_float32(family):
    lm = tiny(family)
    with neuron_gains(lm, Objective()) as trainable:
        wide = saved_bytes(trainable.policy.arms[0], TOKENS) / TOKENS
    lm.model.to(torch.bfloat16)
    with neuron_gains(lm, Objective()) as trainable:
        half = saved_bytes(trainable.policy.arms[0], TOKENS) / TOKENS
    assert Kept(lm).per_token("gains", TOKENS, dtype=torch.bfloat16) == half
    # They do from torch 2.15 and transformers 5.24 on: then the count is exact.
    counted = Kept(lm).per_token("gains", TOKENS)
    assert counted == wide or wide < counted == 2 * half < 1.3 * wide


def test_it_is_counted_once_and_of_long_rows_on_the_first_tokens(llama, monkeypatch):
    rows, counted = [], Kept._counted

    def watched(self, dtype, train, tokens, rank, **how):
        rows.append(tokens)
        return counted(self, dtype, train, tokens, rank, **how)

    monkeypatch.setattr(Kept, "_counted", watched)
    monkeypatch.setattr(kept, "_MOST", 8)
    asked = Kept(llama)
    assert asked.per_token("gains", 9) == asked.per_token("gains", 100)
    assert asked.per_token("gains", 4) != asked.per_token("full", 4)
    assert rows == [8, 4, 4]


def test_a_model_that_does_not_run_on_shapes_is_not_counted(llama, monkeypatch):
    def failing(*_):
        raise DposcopeError("no")

    monkeypatch.setattr(kept, "saved_bytes", failing)
    assert Kept(llama).per_token("gains", 4) is None
    monkeypatch.setattr(kept, "saved_bytes", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        Kept(llama).per_token("gains", 5)
    assert not [module for module in llama.model.modules() if module._forward_hooks or module._forward_pre_hooks]
