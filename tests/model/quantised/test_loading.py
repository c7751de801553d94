"""Checkpoints that are stored quantised, and what is refused before anything long."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GptOssConfig

from dposcope.errors import DposcopeError
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load, load_native
from dposcope.model.quantised import loading
from dposcope.model.quantised.loading import StoredForm, is_stored_quantised
from helpers.families import assert_close, bos_tokenizer, build, copied, logits_of, random_gains
from helpers.gguf_models import write_llama

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]
BLOCK = 8
"""Rows and columns that share a scale of FP8."""
MXFP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])


def write(lm, folder, quantisation, change=None):
    """A checkpoint whose config says that it is quantised; `change` makes a tensor's stored ones."""
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": quantisation}))
    if change is not None:
        stored = load_file(folder / "model.safetensors")
        new = {key: part for name, tensor in stored.items() for key, part in change(name, tensor).items()}
        save_file({name: tensor.contiguous() for name, tensor in new.items()}, folder / "model.safetensors")
    return folder


def is_plain(lm, method):
    assert not lm.quantised
    assert lm.notes == (f"stored by {method}, and dequantised on loading",)
    assert "quantization_config" not in lm.model.config.to_dict()


def test_fp8_is_dequantised_on_loading(llama, tmp_path):
    expected = copied(llama)
    by_hand = dict(expected.model.named_parameters())

    def change(name, tensor):
        if not name.endswith("_proj.weight"):
            return {name: tensor}
        tiles = tensor.unflatten(0, (-1, BLOCK)).unflatten(2, (-1, BLOCK))
        scales = tiles.abs().amax((1, 3)) / 448
        codes = (tiles / scales[:, None, :, None]).to(torch.float8_e4m3fn)
        with torch.no_grad():
            by_hand[name].copy_((codes.float() * scales[:, None, :, None]).flatten(2).flatten(0, 1))
        return {name: codes.flatten(2).flatten(0, 1), f"{name}_scale_inv": scales}

    told = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [BLOCK, BLOCK]}
    lm = load(write(llama, tmp_path / "fp8", told, change))
    is_plain(lm, "fp8")
    assert torch.equal(logits_of(lm, IDS), logits_of(expected, IDS))
    gains = Gains(random_gains(lm))
    folded = fold(lm, gains)
    with gains.on(lm):
        assert_close(logits_of(folded, IDS), logits_of(lm, IDS))
    lm.save_pretrained(tmp_path / "plain")
    assert load(tmp_path / "plain").notes == ()


def test_compressed_tensors_are_dequantised_on_loading(llama, tmp_path):
    pytest.importorskip("compressed_tensors", reason="pip install compressed-tensors")
    expected = copied(llama)
    by_hand = dict(expected.model.named_parameters())

    def change(name, tensor):
        if not name.endswith("_proj.weight"):
            return {name: tensor}
        scale = tensor.abs().amax(1, keepdim=True) / 127
        codes = (tensor / scale).round().to(torch.int8)
        with torch.no_grad():
            by_hand[name].copy_(codes.float() * scale)
        return {name: codes, f"{name}_scale": scale}

    weights = {"num_bits": 8, "type": "int", "symmetric": True, "dynamic": False, "strategy": "channel"}
    told = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    lm = load(write(llama, tmp_path, told, change))
    is_plain(lm, "compressed-tensors")
    assert_close(logits_of(lm, IDS), logits_of(expected, IDS), 1e-6)


def test_mxfp4_experts_are_dequantised_on_loading(tmp_path):
    config = GptOssConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        eos_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    draw, kept = torch.Generator().manual_seed(0), {}

    def change(name, tensor):
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            return {name: tensor}
        groups = (tensor.shape[0], tensor.shape[2], tensor.shape[1] // 32)
        codes = torch.randint(0, 256, (*groups, 16), generator=draw, dtype=torch.uint8)
        scales = torch.randint(122, 126, groups, generator=draw, dtype=torch.uint8)
        pairs = torch.stack([MXFP4[(codes & 15).long()], MXFP4[(codes >> 4).long()]], -1)
        kept[name] = (pairs.flatten(3) * torch.exp2(scales.float() - 127)[..., None]).flatten(2).transpose(1, 2)
        return {f"{name}_blocks": codes, f"{name}_scales": scales}

    made = LanguageModel(build(config), bos_tokenizer())
    lm = load(write(made, tmp_path, {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, change))
    is_plain(lm, "mxfp4")
    for block in range(2):
        assert torch.equal(lm.value_vectors(block), kept[f"model.layers.{block}.mlp.experts.down_proj"].flatten(0, 1))


STORED = {
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes", r"dposcope\[quantised\]"),
    "an early bitsandbytes": ({"load_in_8bit": True}, "bitsandbytes", r"dposcope\[quantised\]"),
    "gptq": ({"quant_method": "gptq", "bits": 4}, "gptqmodel", "gptqmodel"),
    "awq": ({"quant_method": "awq", "bits": 4}, "gptqmodel", "gptqmodel"),
}


@pytest.mark.parametrize("method", STORED)
def test_a_missing_package_is_told_in_a_line(method, llama, tmp_path, monkeypatch):
    config, package, extra = STORED[method]
    folder = write(llama, tmp_path / "coded", config)
    assert is_stored_quantised(str(folder))
    monkeypatch.setattr(loading, "find_spec", lambda _name: None)
    with pytest.raises(
        DposcopeError, match=rf"needs the package {package}; install it with: pip install .*{extra}"
    ) as e:
        load(folder)
    assert "\n" not in str(e.value)


def test_a_method_whose_package_transformers_misses_is_told_in_a_line(llama, tmp_path):
    folder = write(llama, tmp_path / "coded", {"quant_method": "eetq"})
    with pytest.raises(DposcopeError, match=r"cannot load .*EETQ.* requires .*; install what it needs") as told:
        load(folder)
    assert "\n" not in str(told.value)


def test_what_cannot_be_quantised_on_loading(llama, tmp_path, monkeypatch):
    plain = write(llama, tmp_path / "plain", None)
    monkeypatch.setattr(loading, "find_spec", lambda _name: None)
    with pytest.raises(DposcopeError, match=r"quantise 4bit needs the package bitsandbytes; install it with: pip"):
        load_native(str(plain), quantise="4bit")
    monkeypatch.setattr(loading, "find_spec", lambda name: name)
    with pytest.raises(DposcopeError, match="quantise '3bit' is unknown; choose from 4bit, 8bit"):
        load(plain, quantise="3bit")
    coded = write(llama, tmp_path / "coded", {"quant_method": "fp8"})
    with pytest.raises(DposcopeError, match="is stored quantised by fp8 already; leave quantise out"):
        load(coded, quantise="4bit")
    assert not is_stored_quantised(str(coded))  # it becomes plain
    assert not is_stored_quantised(str(plain))
    assert not is_stored_quantised("some-org/some-model")
    gguf = write_llama(llama, tmp_path / "model.gguf")
    with pytest.raises(DposcopeError, match="is a GGUF file, and is not quantised on loading; leave quantise out"):
        load(gguf, quantise="8bit")


def test_the_stored_form_of_a_folder(llama, tmp_path):
    assert StoredForm.of(str(write(llama, tmp_path / "a", None)), local=True) == StoredForm(None, torch.float32)
    half = copied(llama)
    half.model.to(torch.bfloat16)
    told = {"quant_method": "gptq", "bits": 4}
    assert StoredForm.of(str(write(half, tmp_path / "b", told)), local=True) == StoredForm("gptq", torch.bfloat16)
    assert StoredForm.of(str(tmp_path), local=True) == StoredForm(None, torch.float32)
