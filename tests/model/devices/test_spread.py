"""Loading over several GPUs: what is refused in one line, and what a model takes. GPUs are pretended, or the CPU."""

import copy
import re

import pytest
import torch
from accelerate import dispatch_model

from dposcope.errors import DposcopeError
from dposcope.interventions.weights import OtherWeights
from dposcope.model.devices import spread as spreading
from dposcope.model.devices.placement import Placement
from dposcope.model.devices.spread import Stored, outlined, placed
from dposcope.model.load import load, load_native
from helpers.adapters import lora, write_adapter
from helpers.changes import tuned_copy
from helpers.fake_devices import GPUS, FakeDevices, parts_of, places_of, pretended_gpus, spread
from helpers.families import CONFIGS, copied, tiny
from helpers.gguf_models import write_llama
from helpers.more_families import MORE

IDS = [2, 40, 41, 55, 60]
GB = 10**9


@pytest.fixture
def two_gpus():
    with pretended_gpus():
        yield


@pytest.fixture
def folder(llama, tmp_path):
    llama.save_pretrained(tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_a_device_beside_it_is_refused(folder, device):
    told = f"device_map 'auto' takes all GPUs, and device {device} is one device; leave one of the two out"
    with pytest.raises(DposcopeError, match=re.escape(told)):
        load(folder, device_map="auto", device=device)


def test_another_map_is_refused(folder):
    with pytest.raises(DposcopeError, match="device_map 'balanced' is unknown; choose from auto"):
        load(folder, device_map="balanced")


def test_several_processes_are_refused(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(DposcopeError, match="gives one process all GPUs, and here are several processes; start one"):
        load(folder, device_map="auto")


def test_a_model_in_memory_stays_where_it_is(llama):
    with pytest.raises(DposcopeError, match="a model in memory stays where it is; leave device_map out"):
        load(llama.model, llama.tokenizer, device_map="auto")


@pytest.mark.parametrize(
    ("form", "mend"),
    [
        (
            Stored(4),
            "weights: load it in 4 or 8 bits (--quantise), or in half precision (--dtype bfloat16), or give it more "
            "GPUs",
        ),
        (Stored(2), "weights: load it in 4 or 8 bits (--quantise), or give it more GPUs"),
        (Stored(2, 4.3), "weights: give it more GPUs"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_with_its_sizes(monkeypatch, form, mend):
    config = CONFIGS["llama"]()
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 8192, 65_536, 30
    monkeypatch.setattr(spreading, "free_memory", lambda: {GPUS[0]: 20 * GB, GPUS[1]: 3 * GB})
    model = outlined(config)
    whole = form.part_bytes(model, tiny("llama").layout)
    with pytest.raises(DposcopeError) as told:
        placed(model, "large", form)
    assert str(told.value).startswith(
        f"large has {whole.total / 1e9:,.1f} GB of weights, {whole.blocks[0] / 1e9:,.1f} GB in its largest block, and "
        "2 GPUs have 20.0 GB, 3.0 GB free, of which 90% may be weights"
    )
    assert mend in str(told.value)


def test_several_streams_are_refused(two_gpus):
    model = outlined(MORE["gemma3n_text"].config())
    with pytest.raises(DposcopeError, match=r"n passes on several residual streams, .* leave --device-map out"):
        placed(model, "n", Stored(4))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_bytes_are_those_of_the_weights(family):
    lm = tiny(family)
    found = Stored(4).part_bytes(lm.model, lm.layout)
    weights = sum(one.numel() * 4 for one in lm.model.parameters())
    beside = sum(one.nbytes for one in lm.model.buffers())
    assert found.total == weights + beside
    assert found.blocks[1] == sum(one.numel() * 4 for one in lm.blocks[1].parameters())
    assert Stored(2).part_bytes(lm.model, lm.layout).blocks[1] == found.blocks[1] // 2


def test_bytes_of_what_is_quantised():
    lm = tiny("llama")
    block = lm.blocks[0]
    coded = sum(one.numel() for one in block.parameters() if one.ndim == 2)
    norms = sum(one.numel() for one in block.parameters() if one.ndim == 1)
    found = Stored.of(2, "4bit", None).part_bytes(lm.model, lm.layout)
    assert found.blocks[0] == round(coded * 4.3 / 8 + norms * 2)
    assert found.last == 2 * sum(one.numel() for one in (*lm.final_norm.parameters(), lm.model.lm_head.weight))
    assert Stored.of(2, None, {"bits": 8}).bits == 8.5
    assert Stored.of(2, None, {"load_in_4bit": True}).bits == 4.5
    assert Stored.of(2, None, {"quant_method": "bitsandbytes"}).bits == 8.5
    assert Stored.of(2, None, None).bits is None


def test_one_gpu_or_none_is_as_without(folder, monkeypatch):
    for count in (0, 1):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        lm = load(folder, device_map="auto")
        assert not hasattr(lm.model, "hf_device_map")
        assert lm.devices == (torch.device("cpu"),)


def test_loading_puts_whole_blocks_on_the_gpus(llama, folder, two_gpus):
    wanted = outputs(llama)
    lm = load(folder, device_map="auto")
    assert lm.devices == GPUS[:2]
    blocks = [lm.device_of_block(block) for block in range(lm.n_blocks)]
    assert blocks == sorted(blocks, key=str)
    assert bits_of(lm) == bits_of(llama)
    assert torch.equal(outputs(lm), wanted)
    half = load_native(str(folder), dtype="bfloat16", device_map="auto")
    assert (half.dtype, half.devices) == (torch.bfloat16, GPUS[:2])


def test_a_tuned_model_is_where_its_base_is_and_takes_its_place(llama, tmp_path, two_gpus):
    tuned = tuned_copy(llama)
    tuned.save_pretrained(tmp_path / "tuned")
    base = spread(copied(llama), 3)
    plain, before = outputs(base), bits_of(base)
    beside = load(tmp_path / "tuned", base=base)
    assert dict(parts_of(beside)) == dict(parts_of(base))
    assert torch.equal(outputs(beside), outputs(tuned))
    with OtherWeights(tmp_path / "tuned").on(base):
        assert torch.equal(outputs(base), outputs(tuned))
    assert bits_of(base) == before
    assert torch.equal(outputs(base), plain)


def test_a_gguf_file_is_spread(llama, tmp_path, two_gpus):
    write_llama(llama, tmp_path / "model.gguf")
    lm = load(tmp_path / "model.gguf", device_map="auto")
    assert lm.devices == GPUS[:2]
    assert torch.equal(outputs(lm), outputs(load(tmp_path / "model.gguf", device="cpu")))


def outputs(lm) -> torch.Tensor:
    """Logits of a text, on the CPU."""
    with torch.no_grad():
        return lm.model(input_ids=torch.tensor([IDS], device=lm.device), use_cache=False).logits[0].cpu()


def bits_of(lm) -> dict[str, bytes]:
    return {name: one.detach().cpu().numpy().tobytes() for name, one in lm.model.named_parameters()}


def test_parts_are_where_their_base_has_them(llama):
    with FakeDevices():
        base = spread(copied(llama), 3)
        places = Placement.of(base)
        assert places == places_of(llama, 3)
        assert base.devices == GPUS
        model = outlined(CONFIGS["llama"]())
        assert placed(model, "tuned", Stored(4), places) == places.device_map(base.model, base.layout)


def test_a_merged_adapter_is_where_its_base_is(llama, tmp_path, two_gpus):
    logits = write_adapter(llama, lora("llama"), tmp_path / "adapter")
    base = spread(copied(llama))
    plain, before = outputs(base), bits_of(base)
    half = load(tmp_path / "adapter", base=base, dtype="float16")
    assert half.dtype == torch.float16
    merged = load(tmp_path / "adapter", base=base)
    for one in (half, merged):
        assert dict(parts_of(one)) == dict(parts_of(base))
    assert torch.allclose(outputs(merged), logits.cpu(), atol=1e-4)
    with OtherWeights(tmp_path / "adapter").on(base):
        assert torch.equal(outputs(base), outputs(merged))
    assert bits_of(base) == before
    assert torch.equal(outputs(base), plain)


def test_a_spread_model_in_memory_is_used_as_it_is(llama):
    with FakeDevices():
        model = spread(copied(llama)).model
        lm = load(model, llama.tokenizer)
        assert lm.model is model
        assert lm.devices == GPUS[:2]
        assert repr(lm).endswith("float32 on cuda:0, cuda:1)")
        tuned = load(model, llama.tokenizer, base=lm)
        assert dict(parts_of(tuned)) == dict(parts_of(lm))


def test_a_block_on_two_devices_is_refused(llama):
    with FakeDevices():
        model = copy.deepcopy(llama.model)
        places = places_of(llama).device_map(model, llama.layout)
        whole = places.pop("model.layers.1")
        for name, _ in model.model.layers[1].named_children():
            places[f"model.layers.1.{name}"] = GPUS[1] if name == "mlp" else whole
        dispatch_model(model, {name: str(one) for name, one in places.items()}, main_device="cuda:0")
        told = r"block 1 of the model is on cuda:0 and cuda:1; keep blocks whole, .*\['LlamaDecoderLayer'\]"
        with pytest.raises(DposcopeError, match=told):
            load(model, llama.tokenizer)


def test_offloaded_weights_are_refused(llama):
    model = copy.deepcopy(llama.model)
    model.model.layers[1].mlp.to("meta")
    with pytest.raises(DposcopeError, match="not in memory; load it without offloading to CPU or disk"):
        load(model, llama.tokenizer)
