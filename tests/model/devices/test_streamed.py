"""Weights of blocks in a file: where they are, what is left of it, what is refused."""

import re
from pathlib import Path

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.weights import OtherWeights
from dposcope.model.devices.streamed import stream_
from dposcope.model.generate import generate
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load, load_native
from helpers.adapters import lora, write_adapter
from helpers.changes import tuned_copy
from helpers.fake_devices import CPU, GPUS, FakeDevices, spread
from helpers.families import TEXTS, copied, tiny
from helpers.more_families import MORE

IDS = torch.tensor([[2, 40, 41, 55, 60]])


@pytest.fixture
def folder(llama, tmp_path):
    llama.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def written(lm):
    return [one.ids for one in generate(lm, TEXTS[:3], new_tokens=4)]


def mapped_files():
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    return {line.split()[-2] for line in lines if line.endswith("(deleted)") and "/.streamed-" in line}


def test_weights_are_mapped_from_a_file_without_a_name(folder, tmp_path):
    plain, place = load(folder), tmp_path / "disk"
    before = mapped_files()
    lm = load(folder, stream=place)
    assert list(place.iterdir()) == []
    (file,) = mapped_files() - before
    assert file.startswith(str(place))
    assert lm.fingerprint == plain.fingerprint
    assert torch.equal(lm.model(IDS).logits, plain.model(IDS).logits)
    for name, weight in lm.model.named_parameters():
        size = weight.untyped_storage().nbytes()
        assert (size > weight.nbytes) == name.startswith("model.layers."), name
    del lm, weight
    assert mapped_files() == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_precision(folder, tmp_path, dtype):
    plain = load(folder, dtype=dtype)
    lm = load(folder, dtype=dtype, stream=tmp_path / "disk")
    assert lm.dtype == dtype
    assert torch.equal(lm.model(IDS).logits, plain.model(IDS).logits)


def test_what_is_not_in_memory_may_be_edited(folder, tmp_path):
    """A write goes to a page of the process, never to a file."""
    lm = load(folder, stream=tmp_path / "disk")
    with torch.no_grad():
        lm.value_vectors(0).mul_(2)
    assert torch.equal(lm.value_vectors(0), 2 * load(folder).value_vectors(0))


def test_the_precision_of_this_machine(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("dposcope.model.load.native_bfloat16", lambda _: True)
    lm = load_native(str(folder), stream=tmp_path / "disk")
    assert lm.dtype == torch.bfloat16
    assert torch.equal(lm.model(IDS).logits, load(folder, dtype="bfloat16").model(IDS).logits)


def test_on_a_gpu_a_part_is_there_while_it_runs(tmp_path):
    lm = tiny("llama")
    seen = {}

    def look(module, *_):
        seen[module] = {str(one.device) for one in module.parameters()}

    with FakeDevices():
        lm = copied(lm)
        stream_(lm.model, lm.layout, GPUS[0], tmp_path)
        lm = LanguageModel(lm.model, lm.tokenizer, lm.name)
        assert {str(one.device) for block in lm.blocks for one in block.parameters()} == {"cpu"}
        assert lm.devices == (GPUS[0],)
        for block in lm.blocks:
            block.mlp.register_forward_pre_hook(look)
            block.self_attn.register_forward_pre_hook(look)
        written(lm)
        assert set(map(frozenset, seen.values())) == {frozenset({"cuda:0"})}
        assert {str(one.device) for block in lm.blocks for one in block.parameters()} == {"cpu"}


def test_after_a_failure_weights_are_back(tmp_path):
    lm = copied(tiny("llama"))
    with FakeDevices():
        stream_(lm.model, lm.layout, GPUS[0], tmp_path)
        lm = LanguageModel(lm.model, lm.tokenizer, lm.name)
        wanted = written(lm)

        def fail(*_):
            raise KeyError("in the middle")

        handles = [lm.blocks[1].mlp.up_proj.register_forward_pre_hook(fail, prepend=side) for side in (True, False)]
        for _ in handles:
            with pytest.raises(KeyError):
                written(lm)
            assert {str(one.device) for block in lm.blocks for one in block.parameters()} == {"cpu"}
        for handle in handles:
            handle.remove()
        assert written(lm) == wanted


@pytest.mark.parametrize("gpu", [False, True])
def test_in_the_place_of_the_base(gpu, tmp_path, monkeypatch):
    base, tuned = copied(tiny("llama")), tuned_copy(tiny("llama"))
    wanted, plain = written(tuned), written(base)
    with FakeDevices():
        device = GPUS[0] if gpu else CPU
        base = spread(base, 1) if gpu else base
        stream_(tuned.model, tuned.layout, device, tmp_path)
        tuned = LanguageModel(tuned.model, tuned.tokenizer, tuned.name)
        monkeypatch.setattr(OtherWeights, "_beside", lambda *_: tuned)
        with OtherWeights("tuned", tmp_path).on(base):
            assert written(base) == wanted
            assert {one.device for one in base.blocks[0].parameters()} == {device}
        assert written(base) == plain


def test_an_adapter(folder, tmp_path):
    base = load(folder)
    write_adapter(base, lora("llama"), tmp_path / "lora", scale=0.1)
    plain = load(tmp_path / "lora", base=base)
    lm = load(tmp_path / "lora", base=base, stream=tmp_path / "disk")
    assert torch.equal(lm.model(IDS).logits, plain.model(IDS).logits)
    assert lm.fingerprint == plain.fingerprint


def test_what_cannot_be_streamed_is_told(folder, tmp_path, llama):
    with pytest.raises(DposcopeError, match="a model in memory stays there; leave stream out"):
        load(llama.model, llama.tokenizer, stream=tmp_path)
    (tmp_path / "file").write_text("")
    told = f"the weights cannot be put into a file of {tmp_path / 'file'}: "
    with pytest.raises(DposcopeError, match=re.escape(told) + ".*; it needs 0.0 GB of disk"):
        load(folder, stream=tmp_path / "file")
    several = MORE["gemma3n_text"].build()
    with pytest.raises(DposcopeError, match=r"passes on several residual streams, .*; leave stream out, or run it on"):
        stream_(several.model, several.layout, GPUS[0], tmp_path)
