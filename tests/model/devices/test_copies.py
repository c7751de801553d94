"""Copies of a model that accelerate has put hooks on: they are models of their own."""

import pytest
import torch

from dposcope.interventions.fold import fold
from dposcope.interventions.weights import OtherWeights
from dposcope.model.devices.copies import convert_, copied_model
from dposcope.model.hooks import shared
from dposcope.model.load import load
from helpers.adapters import lora, write_adapter
from helpers.edits import heads_of
from helpers.fake_devices import dispatched
from helpers.families import bits, logits_of
from helpers.quantised import in_bytes

IDS = [2, 40, 41, 55, 60]


def test_a_copy_converts_itself(llama):
    lm = dispatched(llama)
    assert "to" in vars(lm.model)
    before = bits(lm.model)
    twin = copied_model(lm.model)
    twin.to(torch.float16)
    assert twin.dtype == torch.float16
    assert bits(lm.model) == before
    convert_(lm.model, torch.float16)
    assert bits(lm.model) == bits(twin)


def test_a_copy_reads_its_own_weights(lm):
    whole = dispatched(lm)
    plain = logits_of(whole, IDS)
    assert torch.equal(plain, logits_of(lm, IDS))
    for twin in (fold(whole, heads_of(whole)), shared(whole)):
        with torch.no_grad():
            twin.model.get_input_embeddings().weight = torch.nn.Parameter(torch.zeros(1))
            twin.blocks[0].get_submodule(lm.layout.mlp_out).weight = torch.nn.Parameter(torch.zeros(1))
        with pytest.raises(Exception, match=r"."):
            logits_of(twin, IDS)
        assert torch.equal(logits_of(whole, IDS), plain)


def test_a_second_quantised_model_has_hooks_of_its_own(llama):
    coded = in_bytes(llama)
    whole = dispatched(coded)
    twin = shared(whole)
    for one, other in zip(whole.model.modules(), twin.model.modules(), strict=True):
        if "_old_forward" in vars(one):
            assert other._old_forward.__self__ is other
            assert other.forward.args[0] is other
    assert torch.equal(logits_of(twin, IDS), logits_of(coded, IDS))


def test_a_quantised_model_takes_the_weights_of_a_merged_adapter_and_gives_them_back(llama, tmp_path):
    """Layers change their class meanwhile."""
    coded = in_bytes(llama)
    write_adapter(llama, lora("llama"), tmp_path / "adapter")
    wanted = logits_of(load(tmp_path / "adapter", base=coded), IDS)
    whole = dispatched(coded)
    plain = logits_of(whole, IDS)
    with OtherWeights(tmp_path / "adapter").on(whole):
        assert torch.equal(logits_of(whole, IDS), wanted)
    assert torch.equal(logits_of(whole, IDS), plain)
