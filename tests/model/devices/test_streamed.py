"""Weights of blocks in a file: where they are, what is left of it, what is refused."""

import re
from pathlib import Path

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.weights import OtherWeights
from dposcope.model.devices import streamed
from dposcope.model.devices.streamed import stream_
from dposcope.model.generate import generate
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load, load_native
from helpers.adapters import lora, write_adapter
from helpers.changes import tuned_copy
from helpers.fake_devices import CPU, GPUS, FakeDevices, pretended_gpus, spread
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
    before = mapped_files()
    lm = load(folder, dtype=dtype, stream=tmp_path / "disk")
    assert mapped_files() > before
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
    before = mapped_files()
    lm = load_native(str(folder), stream=tmp_path / "disk")
    assert mapped_files() > before
    assert lm.dtype == torch.bfloat16
    assert torch.equal(lm.model(IDS).logits, load(folder, dtype="bfloat16").model(IDS).logits)


def test_on_a_gpu_a_part_is_there_while_it_runs(tmp_path):
    lm = tiny("llama")
    seen = {}

    def look(module, *_):
        seen[module] = {str(one.device) for one in module.parameters()}

    with FakeDevices():
        lm = copied(lm)
        stream_(lm, GPUS[0], tmp_path)
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
        stream_(lm, GPUS[0], tmp_path)
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
@pytest.mark.parametrize("base_streamed", [False, True])
@pytest.mark.parametrize("tuned_streamed", [False, True])
def test_in_the_place_of_the_base(gpu, base_streamed, tuned_streamed, tmp_path, monkeypatch):
    base, tuned = copied(tiny("llama")), tuned_copy(tiny("llama"))
    with torch.no_grad():  # the ends differ, too
        tuned.model.lm_head.weight.mul_(1.1)
    wanted, plain = ((written(lm), lm.fingerprint, lm.value_vectors(0).clone()) for lm in (tuned, base))
    with FakeDevices():
        device = GPUS[0] if gpu else CPU
        pair = []
        for lm, streamed in ((base, base_streamed), (tuned, tuned_streamed)):
            if streamed:
                stream_(lm, device, tmp_path)
                pair.append(LanguageModel(lm.model, lm.tokenizer, lm.name))
            else:
                pair.append(spread(lm, 1) if gpu else lm)
        base, tuned = pair
        monkeypatch.setattr(OtherWeights, "_beside", lambda *_: tuned)
        resting = {name: one.device for name, one in base.model.named_parameters()}
        for _ in range(2):
            with OtherWeights("tuned", tmp_path).on(base):
                base.__dict__.pop("fingerprint", None)
                told = written(base), base.fingerprint, base.value_vectors(0).cpu()
                assert told[:2] == wanted[:2]
                assert torch.equal(told[2], wanted[2])
                assert base.devices == (device,)
            base.__dict__.pop("fingerprint", None)
            assert (written(base), base.fingerprint) == plain[:2]
            assert {name: one.device for name, one in base.model.named_parameters()} == resting
            assert base.devices == (device,)


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_loaded_for_a_gpu(folder, tmp_path, dtype):
    plain = written(load(folder, device="cpu"))
    with pretended_gpus(1):
        for lm in (
            load(folder, device="cuda", dtype=dtype, stream=tmp_path / "disk"),
            load_native(str(folder), device="cuda", dtype=dtype, stream=tmp_path / "disk"),
        ):
            assert {name: one.device.type for name, one in lm.model.named_parameters()} == {
                name: "cpu" if name.startswith("model.layers.") else "cuda" for name, _ in lm.model.named_parameters()
            }
            assert written(lm) == plain
            beside = load(folder, base=lm, stream=tmp_path / "disk")
            assert beside.devices == lm.devices
            assert written(beside) == plain


def test_a_device_map_changes_nothing_without_gpus(folder, tmp_path):
    lm = load_native(str(folder), device_map="auto", stream=tmp_path / "disk")
    assert lm.device == CPU


def test_an_adapter(folder, tmp_path):
    base = load(folder)
    write_adapter(base, lora("llama"), tmp_path / "lora", scale=0.1)
    plain = load(tmp_path / "lora", base=base)
    before = mapped_files()
    lm = load(tmp_path / "lora", base=base, stream=tmp_path / "disk")
    assert mapped_files() > before
    assert torch.equal(lm.model(IDS).logits, plain.model(IDS).logits)
    assert lm.fingerprint == plain.fingerprint


def test_what_cannot_be_streamed_is_told(folder, tmp_path, llama):
    with pytest.raises(DposcopeError, match="a model in memory stays there; leave stream out"):
        load(llama.model, llama.tokenizer, stream=tmp_path)
    (tmp_path / "file").write_text("")
    told = f"cannot be put into a file of {tmp_path / 'file'}: "
    for loading in (load, load_native):
        with pytest.raises(DposcopeError, match=re.escape(told) + ".*; it needs 0.0 GB of disk"):
            loading(str(folder), stream=tmp_path / "file")
        with pytest.raises(DposcopeError, match="is to be quantised, and its weights cannot lie in a file"):
            loading(str(folder), stream=tmp_path, quantise="4bit")
    several = MORE["gemma3n_text"].build()
    with pytest.raises(DposcopeError, match=r"passes on several residual streams, .*; leave stream out, or run it on"):
        stream_(several, GPUS[0], tmp_path)
    with pretended_gpus(2), pytest.raises(DposcopeError, match="is to be spread over several GPUs"):
        load(folder, device_map="auto", stream=tmp_path)


def test_an_adapter_on_a_gpu_is_refused(folder, tmp_path):
    write_adapter(load(folder, device="cpu"), lora("llama"), tmp_path / "lora", scale=0.1)
    with pretended_gpus(1):
        base = load(folder, device="cuda")
        with pytest.raises(DposcopeError, match=r"is an adapter, and is merged on the GPU, .* name that folder, or"):
            load(tmp_path / "lora", base=base, stream=tmp_path / "disk")


def test_nothing_is_left_where_it_is_killed(folder, tmp_path):
    """The file has lost its name before anything is written to it."""
    place = tmp_path / "disk"
    seen = []
    real = streamed._written

    def look(stream, tensor):
        seen.append(list(place.iterdir()))
        return real(stream, tensor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed, "_written", look)
        load(folder, stream=place)
    assert seen
    assert not any(seen)


def test_a_folder_of_the_user(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    load(folder, stream="~/disk")
    assert (tmp_path / "disk").is_dir()
