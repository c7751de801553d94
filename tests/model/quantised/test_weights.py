"""Layers whose weights are codes: the numbers that they stand for, in every family."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.model.generate import generate
from dposcope.model.hooks import shared
from dposcope.model.load import load
from dposcope.model.quantised.weights import is_quantised, quantised_weight
from dposcope.neurons.activations import collect_means
from dposcope.neurons.contributions import contributions
from dposcope.neurons.groups import cosines
from helpers.families import (
    FAMILIES,
    TEXTS,
    assert_close,
    bits,
    copied,
    logits_of,
    naive_vectors,
    random_direction,
    random_gains,
    randomise,
)
from helpers.quantised import Bytes, by_hand, in_bytes, naive_weight

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]


@pytest.mark.parametrize("family", FAMILIES)
def test_value_vectors_are_the_dequantised_rows(family, family_lm):
    lm = in_bytes(family_lm(family))
    plain = by_hand(lm)
    assert lm.quantised
    assert not plain.quantised
    assert (lm.d_mlp, lm.d_model, lm.d_attention, lm.gated) == (
        plain.d_mlp,
        plain.d_model,
        plain.d_attention,
        plain.gated,
    )
    for block in range(lm.n_blocks):
        assert torch.equal(lm.value_vectors(block), plain.value_vectors(block))
        assert torch.equal(lm.value_vectors(block).double(), naive_vectors(plain, block))
    assert not torch.equal(lm.value_vectors(0), family_lm(family).value_vectors(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_contributions_are_those_of_the_dequantised_model(family, family_lm):
    base = in_bytes(family_lm(family))
    tuned = in_bytes(with_other_weights(family_lm(family)))
    direction = random_direction(base)
    found, expected = (
        contributions(one, other, *(collect_means(lm, TEXTS, new_tokens=3) for lm in (one, other)), direction)
        for one, other in ((base, tuned), (by_hand(base), by_hand(tuned)))
    )
    for ours, theirs in (
        (found.cosine, expected.cosine),
        (found.total, expected.total),
        (found.vector_cosine, expected.vector_cosine),
    ):
        assert_close(ours, theirs, 1e-9)
    assert found.total.abs().max() > 1e-3
    rows = naive_vectors(by_hand(base), 1)
    naive = rows @ direction / rows.norm(dim=1) / direction.norm()
    assert_close(cosines(base, direction)[1], naive, 1e-12)


def with_other_weights(lm):
    other = copied(lm)
    randomise(other.model, 7)
    return other


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3"])
def test_hooks_act_as_on_the_plain_model_and_leave_it_to_the_bit(family, family_lm):
    lm = in_bytes(family_lm(family))
    plain, before, kept = by_hand(lm), logits_of(lm, IDS), bits(lm.model)
    edit = Edit.of(Gains(random_gains(lm)))
    with edit.on(lm):
        hooked = logits_of(lm, IDS)
        texts = generate(lm, TEXTS[:3], new_tokens=5)
    with edit.on(plain):
        assert_close(hooked, logits_of(plain, IDS))
        assert [one.ids for one in texts] == [one.ids for one in generate(plain, TEXTS[:3], new_tokens=5)]
    assert not torch.allclose(hooked, before, atol=1e-2)
    assert torch.equal(logits_of(lm, IDS), before)
    assert bits(lm.model) == kept


def test_a_bias_and_hooks_on_the_layer_are_no_part_of_its_weight(family_lm):
    lm = in_bytes(family_lm("gpt2"))
    layer = lm.mlp_outs[0]
    assert layer.bias.abs().max() > 0.01
    seen = []
    handle = layer.register_forward_pre_hook(lambda *_: seen.append(1))
    assert torch.equal(quantised_weight(layer), naive_weight(layer))
    handle.remove()
    assert seen == []
    assert layer.bias.abs().max() > 0.01


def test_wide_layers_are_read_in_parts():
    torch.manual_seed(0)
    layer = Bytes(nn.Linear(600, 5))
    assert torch.equal(quantised_weight(layer), naive_weight(layer))


def test_what_is_quantised(llama):
    assert not any(map(is_quantised, llama.model.modules()))
    lm = in_bytes(llama)
    found = {name for name, module in lm.model.named_modules() if is_quantised(module)}
    assert len(found) == 7 * lm.n_blocks
    assert all(name.endswith("_proj") for name in found)


def test_scales_are_a_part_of_the_fingerprint(llama):
    lm, other = in_bytes(llama), in_bytes(llama)
    assert lm.fingerprint == other.fingerprint
    other.mlp_outs[1].scales.mul_(2)
    assert in_bytes(llama).fingerprint == lm.fingerprint
    assert replace(other).fingerprint != lm.fingerprint  # a new value, which has no digest yet


def test_a_second_model_shares_codes_and_scales(llama):
    lm = in_bytes(llama)
    other = shared(lm)
    assert other.mlp_outs[0] is not lm.mlp_outs[0]
    assert other.mlp_outs[0].codes.data_ptr() == lm.mlp_outs[0].codes.data_ptr()
    assert other.mlp_outs[0].scales.data_ptr() == lm.mlp_outs[0].scales.data_ptr()


def test_a_quantised_model_in_memory_is_used_as_it_is(llama):
    made = in_bytes(llama)
    lm = load(made.model, llama.tokenizer)
    assert lm.model is made.model
    assert lm.quantised
    tuned = load(in_bytes(with_other_weights(llama)).model, llama.tokenizer, base=lm)
    assert tuned.quantised
    with pytest.raises(DposcopeError, match="a model in memory stays as it is"):
        load(made.model, llama.tokenizer, quantise="4bit")
