"""Loading as settings ask."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from dposcope.errors import DposcopeError
from dposcope.model import load as machine
from dposcope.model.devices.copies import convert_
from dposcope.model.load import load_native, native_bfloat16
from helpers.families import FAMILIES, tiny


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=str)
def stored(request, tmp_path):
    """A checkpoint of one precision."""
    tiny("llama", dtype=request.param).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model"), request.param


@pytest.mark.parametrize("native", [True, False])
def test_auto_keeps_what_is_stored_but_runs_float32_in_bfloat16_where_that_is_native(stored, native, monkeypatch):
    source, precision = stored
    monkeypatch.setattr(machine, "native_bfloat16", lambda _device: native)
    lm = load_native(source, device="cpu")
    assert lm.dtype == (torch.bfloat16 if native and precision == torch.float32 else precision)
    assert not lm.model.training


@pytest.mark.parametrize("family", FAMILIES)
def test_auto_is_the_model_that_transformers_loads_in_bfloat16(family, tmp_path, monkeypatch):
    """Rotary frequencies stay in float32: rounded, they turn by another angle the further a token is."""
    tiny(family).save_pretrained(tmp_path)
    monkeypatch.setattr(machine, "native_bfloat16", lambda _device: True)
    ids = torch.arange(5, 5 + 80)[None]
    with torch.no_grad():
        expected = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="bfloat16").eval()(ids).logits
        assert torch.equal(load_native(str(tmp_path), device="cpu").model(ids).logits, expected)
        converted = machine.load(tmp_path, dtype="float32", device="cpu")
        convert_(converted.model, torch.bfloat16)
        assert torch.equal(converted.model(ids).logits, expected)
    config = tmp_path / "config.json"
    told = json.loads(config.read_text())
    told.pop("dtype", None)
    config.write_text(json.dumps(told))
    with torch.no_grad():
        assert torch.equal(load_native(str(tmp_path), device="cpu").model(ids).logits, expected)


@pytest.mark.parametrize("asked", ["float32", "bfloat16", "float16"])
def test_a_named_precision_is_what_runs(stored, asked, monkeypatch):
    monkeypatch.setattr(machine, "native_bfloat16", lambda _device: True)
    lm = load_native(stored[0], dtype=asked, device="cpu")
    assert {parameter.dtype for parameter in lm.model.parameters()} == {getattr(torch, asked)}


def test_an_unknown_device_is_refused(stored):
    with pytest.raises(DposcopeError, match="device 'mars' is unknown; use auto, cpu"):
        load_native(stored[0], device="mars")


@pytest.mark.parametrize(
    ("has", "expected"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, True),
        ({"avx512_bf16": False, "avx2": True}, False),
        ({}, False),
    ],
)
def test_the_processor_is_asked(monkeypatch, has, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has)
    assert native_bfloat16(torch.device("cpu")) is expected


@pytest.mark.parametrize("supported", [True, False])
def test_the_gpu_is_asked_without_emulation(monkeypatch, supported):
    asked = []
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: asked.append(including_emulation) or supported
    )
    assert native_bfloat16(torch.device("cuda")) is supported
    assert asked == [False]


def test_other_devices_are_not_trusted_with_it():
    assert native_bfloat16(torch.device("mps")) is False
