"""Layers of bitsandbytes, where it is installed: loaded, read, edited, trained."""

import warnings

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import edited
from dposcope.interventions.gains import Gains
from dposcope.interventions.weights import OtherWeights
from dposcope.model.hooks import shared
from dposcope.model.load import load, load_native
from dposcope.model.quantised.plain import dequantised
from dposcope.model.quantised.weights import quantised_weight
from dposcope.neurons.activations import collect_means
from dposcope.neurons.contributions import contributions
from dposcope.training.trainable import low_rank, neuron_gains
from helpers.adapters import IDS as ADAPTER_IDS
from helpers.adapters import lora, write_adapter
from helpers.families import (
    FAMILIES,
    TEXTS,
    assert_close,
    bits,
    logits_of,
    random_direction,
    random_gains,
    randomise,
    tiny,
)
from helpers.policies import OBJECTIVES, material, packed

bnb = pytest.importorskip("bitsandbytes", reason="pip install 'dposcope[quantised]'")

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]
WAYS = ["4bit", "8bit"]


def write(lm, folder):
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Family → a checkpoint of it; `llama tuned` is another llama with the same tokenizer."""
    root, made = tmp_path_factory.mktemp("plain"), {}

    def get(name):
        if name not in made:
            lm = tiny(name.split()[0])
            if name.endswith("tuned"):
                randomise(lm.model, 7)
            made[name] = write(lm, root / name.replace(" ", "-"))
        return made[name]

    return get


def means_of(lm):
    return collect_means(lm, TEXTS, new_tokens=3)


def own_weight(layer):
    """`[outputs, inputs]`, as the package itself says."""
    if isinstance(layer, bnb.nn.Linear4bit):
        return bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    assert isinstance(layer, bnb.nn.Linear8bitLt)
    return bnb.functional.int8_vectorwise_dequant(layer.weight.data, layer.state.SCB)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("how", WAYS)
def test_every_family_is_read_as_the_package_dequantises_it(family, how, folders):
    lm = load(folders(family), quantise=how)
    assert (lm.quantised, lm.quantise) == (True, how)
    for block in range(lm.n_blocks):
        assert torch.equal(lm.value_vectors(block), own_weight(lm.mlp_outs[block]).T)
    plain = dequantised(lm)
    assert (plain.quantised, plain.quantise) == (False, None)
    assert [type(module).__name__ for module in plain.mlp_outs] == ["Conv1D" if family == "gpt2" else "Linear"] * (
        lm.n_blocks
    )
    if how == "4bit":
        assert torch.equal(logits_of(lm, IDS), logits_of(plain, IDS))
    else:  # its activations are quantised, too
        assert_close(logits_of(lm, IDS), logits_of(plain, IDS), 0.3)


@pytest.mark.parametrize("how", WAYS)
def test_it_is_saved_and_loads_as_it_was(how, folders, tmp_path):
    lm = load(folders("llama"), quantise=how)
    lm.save_pretrained(tmp_path / "coded")
    again = load(tmp_path / "coded")
    assert (again.quantised, again.quantise) == (True, None)
    assert torch.equal(logits_of(again, IDS), logits_of(lm, IDS))
    assert again.fingerprint == lm.fingerprint != load(folders("llama")).fingerprint
    with pytest.raises(DposcopeError, match="is stored quantised by bitsandbytes already; leave quantise out"):
        load(tmp_path / "coded", quantise=how)
    dequantised(lm).save_pretrained(tmp_path / "plain")
    plain = load(tmp_path / "plain")
    assert not plain.quantised
    assert torch.equal(logits_of(plain, IDS), logits_of(dequantised(lm), IDS))
    with pytest.raises(DposcopeError, match="is not quantised; use it as it is"):
        dequantised(plain)


def test_scales_decide_the_fingerprint(folders, tmp_path):
    """Both have the same codes."""
    twice = tiny("llama")
    with torch.no_grad():
        for block in twice.blocks:
            block.mlp.down_proj.weight.mul_(2)
    for how in WAYS:
        lm, other = (load(folder, quantise=how) for folder in (folders("llama"), write(twice, tmp_path / how)))
        assert torch.equal(lm.mlp_outs[0].weight, other.mlp_outs[0].weight)
        assert lm.fingerprint != other.fingerprint


@pytest.mark.parametrize("how", WAYS)
def test_hooks_off_is_the_model_to_the_bit(how, folders):
    lm = load(folders("gemma3"), quantise=how)
    before, kept = logits_of(lm, IDS), bits(lm.model)
    edit = Edit.of(Gains(random_gains(lm)))
    with edit.on(lm):
        hooked = logits_of(lm, IDS)
    with edited(lm, edit) as other:
        assert torch.equal(logits_of(other, IDS), hooked)
        assert torch.equal(logits_of(lm, IDS), before)
    assert not torch.allclose(hooked, before, atol=1e-3)
    assert torch.equal(logits_of(lm, IDS), before)
    assert bits(lm.model) == kept


@pytest.mark.parametrize("how", WAYS)
def test_a_second_model_keeps_nothing_twice(how, folders):
    lm = load(folders("llama"), quantise=how)
    logits_of(lm, IDS)  # the first run moves the scales of 8 bits
    other = shared(lm)
    for mine, theirs in zip(lm.mlp_outs, other.mlp_outs, strict=True):
        assert mine is not theirs
        assert mine.weight is theirs.weight
        if how == "8bit":
            assert mine.state is theirs.state
    memory = load(lm.model, lm.tokenizer, base=lm)
    assert memory.mlp_outs[0].weight is lm.mlp_outs[0].weight
    assert torch.equal(logits_of(memory, IDS), logits_of(lm, IDS))


def test_contributions_are_those_of_the_dequantised_models(folders):
    base, tuned = (load(folders(name), quantise="4bit") for name in ("llama", "llama tuned"))
    found, expected = (
        contributions(one, other, means_of(one), means_of(other), random_direction(one))
        for one, other in ((base, tuned), (dequantised(base), dequantised(tuned)))
    )
    for name in ("cosine", "vector_cosine", "total"):
        assert_close(getattr(found, name), getattr(expected, name), 1e-9)
    assert found.total.abs().max() > 1e-3


@pytest.mark.parametrize("how", WAYS)
def test_a_tuned_model_stands_in_its_place_quantised_alike_and_goes_again(how, folders):
    base, tuned = load(folders("llama"), quantise=how), load(folders("llama tuned"), quantise=how)
    before, kept = logits_of(base, IDS), bits(base.model)
    with OtherWeights(folders("llama tuned")).on(base):
        assert torch.equal(logits_of(base, IDS), logits_of(tuned, IDS))
    assert torch.equal(logits_of(base, IDS), before)
    assert bits(base.model) == kept


@pytest.mark.parametrize("how", WAYS)
def test_gains_are_learned(how, folders):
    lm = load(folders("llama"), quantise=how)
    kept, batch = bits(lm.model), packed(lm, material(3, 0))
    with neuron_gains(lm, OBJECTIVES["dpo"]) as trainable:
        first = trainable.policy(batch).loss
        first.backward()
        (gains,) = trainable.policy.trainable.values()
        assert (gains.grad != 0).float().mean() > 0.9
        with torch.no_grad():
            gains -= 0.02 * gains.grad.sign()
        assert trainable.policy(batch).loss < first
        learned = trainable.export().gains
    assert len(learned.touched) > 0
    assert bits(lm.model) == kept
    if how == "4bit":  # whose plain model computes the same
        with neuron_gains(dequantised(lm), OBJECTIVES["dpo"]) as plain:
            plain.policy(batch).loss.backward()
            (expected,) = plain.policy.trainable.values()
            assert_close(gains.grad, expected.grad)


@pytest.mark.parametrize("how", WAYS)
def test_lora_becomes_a_plain_model_of_dequantised_weights(how, folders):
    lm = load(folders("llama"), quantise=how)
    kept, batch = bits(lm.model), packed(lm, material(3, 0))
    with low_rank(lm, OBJECTIVES["dpo"], rank=2) as trainable:
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for one in trainable.policy.trainable.values():
                one.add_(0.2 * torch.randn(one.shape, generator=draw))
        trainable.policy(batch).loss.backward()
        assert all((one.grad != 0).any() for one in trainable.policy.trainable.values())
        adapted = logits_of(lm, IDS)
        tuned = trainable.export().lm
        down = "model.layers.1.mlp.down_proj."
        values = {
            name.rpartition(down)[2]: one.detach().clone()
            for name, one in trainable.policy.trainable.items()
            if down in name
        }
    assert (tuned.quantised, tuned.quantise) == (False, None)
    if how == "4bit":
        assert_close(logits_of(tuned, IDS), adapted)
    assert not torch.allclose(logits_of(tuned, IDS), logits_of(lm, IDS), atol=1e-2)
    assert bits(lm.model) == kept
    product = values["lora_B.default.weight"] @ values["lora_A.default.weight"] * 16  # alpha / rank
    assert_close(tuned.mlp_outs[1].weight, own_weight(lm.mlp_outs[1]) + product)


def test_an_adapter_is_merged_into_dequantised_weights(folders, tmp_path):
    base = load(folders("llama"), quantise="4bit")
    adapted = write_adapter(dequantised(base), lora("llama"), tmp_path / "adapter")
    tuned = load(tmp_path / "adapter", base=base)
    assert not tuned.quantised
    assert_close(logits_of(tuned, ADAPTER_IDS), adapted)
    assert tuned.notes[0].startswith("LORA adapter, merged into the dequantised weights of")
    with pytest.raises(DposcopeError, match=r"is an adapter, which is merged .* leave quantise out"):
        load(tmp_path / "adapter", base=base, quantise="4bit")
    with OtherWeights(tmp_path / "adapter").on(base):
        assert_close(logits_of(base, ADAPTER_IDS), adapted)
    assert base.mlp_outs[0].weight.dtype == torch.uint8


def test_a_precision_is_chosen_before_weights_are_quantised(folders, monkeypatch):
    monkeypatch.setattr("dposcope.model.load.native_bfloat16", lambda _device: True)
    for how in WAYS:
        assert load_native(str(folders("llama")), quantise=how, device="cpu").dtype == torch.bfloat16
        assert load_native(str(folders("llama")), quantise=how, dtype="float32", device="cpu").dtype == torch.float32


def test_packed_codes_are_read_by_running(folders):
    """As some processors have them after the first run."""
    layer = bnb.nn.Linear4bit(64, 32, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.weight = bnb.nn.Params4bit(torch.randn(32, 64), requires_grad=False, quant_type="nf4", module=layer)
    layer = layer.to("cpu").eval()
    expected = own_weight(layer).clone()
    layer.support_avx512bf16_for_cpu = False
    assert torch.equal(quantised_weight(layer), expected)
    layer.weight.quant_state.packing_format_for_cpu = True
    layer.forward = lambda units: units @ expected.T
    assert torch.equal(quantised_weight(layer), expected)


def test_nothing_is_said_while_it_loads_and_runs(folders, capfd):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        logits_of(load(folders("llama"), quantise="8bit"), IDS)
    assert capfd.readouterr().err == ""
