"""From a name to a model; and every wrong name told in one line."""

import json
import struct
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from dposcope.errors import DposcopeError
from dposcope.model import load as loading
from dposcope.model.gguf import GgufModel, load_gguf
from dposcope.model.load import load
from dposcope.model.outline import outline
from helpers.families import CONFIGS, bits, bos_tokenizer, logits_of, tiny

IDS = [2, 40, 41, 55, 60]


def saved(folder, model, *, tokenizer=True):
    model.save_pretrained(folder)
    if tokenizer:
        bos_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path, llama):
    return saved(tmp_path / "checkpoint", llama.model)


# What loads


def test_a_folder_loads_as_it_was_saved(lm, tmp_path):
    lm.save_pretrained(tmp_path / "m")
    again = load(tmp_path / "m")
    assert bits(again.model) == bits(lm.model)
    assert torch.equal(logits_of(again, IDS), logits_of(lm, IDS))
    assert again.tokenizer("the river")["input_ids"] == lm.tokenizer("the river")["input_ids"]
    assert (again.tokenizer.bos_token, again.tokenizer.eos_token) == (lm.tokenizer.bos_token, lm.tokenizer.eos_token)
    assert again.end_ids == lm.end_ids
    assert again.name == "m"
    assert not again.model.training


def test_a_folder_that_is_called_like_a_bundled_model_is_not_that_model(llama, tmp_path, monkeypatch):
    llama.save_pretrained(tmp_path / "gemma-3-270m")
    assert load(tmp_path / "gemma-3-270m").name == outline(tmp_path / "gemma-3-270m").lm.name == "./gemma-3-270m"
    monkeypatch.chdir(tmp_path)
    assert load("gemma-3-270m").name == "./gemma-3-270m"


def test_a_folder_may_be_named_by_text_or_relative_to_home(checkpoint, monkeypatch):
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    assert load("~/checkpoint").fingerprint == load(str(checkpoint)).fingerprint


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", torch.bfloat16, torch.float16])
def test_weights_are_cast_on_request(checkpoint, dtype):
    expected = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    assert load(checkpoint, dtype=dtype).dtype == expected


def test_weights_stay_as_stored_by_default(tmp_path):
    saved(tmp_path / "half", tiny("llama", dtype=torch.bfloat16).model)
    assert load(tmp_path / "half").dtype == torch.bfloat16


@pytest.mark.parametrize("device", ["auto", "cpu", torch.device("cpu")])
def test_devices(checkpoint, device):
    expected = "cuda" if device == "auto" and torch.cuda.is_available() else "cpu"
    assert load(checkpoint, device=device).device.type == expected


def test_loading_is_quiet_and_leaves_the_bars_as_they_were(checkpoint, capfd):
    from transformers.utils import logging

    capfd.readouterr()
    shown = logging.is_progress_bar_enabled()
    load(checkpoint)
    assert logging.is_progress_bar_enabled() == shown
    output = capfd.readouterr()
    assert output.out == output.err == ""


def test_saving_is_quiet(llama, tmp_path, capfd):
    capfd.readouterr()
    llama.save_pretrained(tmp_path / "m")
    output = capfd.readouterr()
    assert output.out == output.err == ""


# What does not


def refused(source, match, **settings):
    with pytest.raises(DposcopeError, match=match) as caught:
        load(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_paths(tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no config.json; name a folder written by save_pretrained")
    refused(tmp_path / "nothing", "is not a model; give a folder, a .gguf file, a bundled name or a hub id")
    (tmp_path / "file.txt").write_text("x")
    refused(tmp_path / "file.txt", "is not a model")


@pytest.mark.parametrize("content", ['{"model_type":', "{}", '{"model_type": "nonsense"}', "[]"])
def test_configs_that_say_nothing(checkpoint, content):
    (checkpoint / "config.json").write_text(content)
    refused(checkpoint, r"config\.json .*; (download (it|the checkpoint) again|check the folder)")


ENCODER = {
    "vocab_size": 96,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}


def test_models_that_are_no_causal_decoder(tmp_path, capfd):
    t5 = transformers.T5Config(vocab_size=96, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=2)
    saved(tmp_path / "t5", transformers.T5ForConditionalGeneration(t5))
    refused(tmp_path / "t5", "is not a causal language model; dposcope reads decoders such as GPT-2")
    for cls in (transformers.BertModel, transformers.BertForSequenceClassification):
        folder = saved(tmp_path / cls.__name__, cls(transformers.BertConfig(**ENCODER)))
        refused(folder, r"not a causal language model|no layout for model_type 'bert'|cls\.predictions")


@pytest.mark.parametrize("kind", ["classifier", "headless"])
def test_a_decoder_without_its_unembedding_is_refused(tmp_path, llama, kind):
    """transformers fills missing weights with random numbers and a note on the console."""
    if kind == "classifier":
        model = transformers.LlamaForSequenceClassification(CONFIGS["llama"]())
    else:
        model = llama.model.model
    refused(saved(tmp_path / kind, model), r"lm_head\.weight|not a causal language model")


def test_a_checkpoint_with_a_weight_missing_is_refused(checkpoint):
    weights = load_file(checkpoint / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    refused(checkpoint, r"layers\.1\.mlp\.down_proj\.weight")


def test_tied_weights_that_are_stored_once_are_not_missing(tmp_path, family_lm):
    for family in ("smollm", "gpt2", "gemma2", "gemma3"):
        lm = family_lm(family)
        lm.save_pretrained(tmp_path / family)
        assert load(tmp_path / family).fingerprint == lm.fingerprint


def test_weights_of_another_shape_are_refused(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"intermediate_size": 25}))
    message = refused(checkpoint, "cannot load")
    assert "report" not in message, "there is no report above an error of one line"


@pytest.mark.parametrize("size", [0, 7, 5000])
def test_damaged_weights_are_refused(checkpoint, size):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    refused(checkpoint, "cannot load")


def test_pickled_weights_are_refused_with_the_mend(checkpoint, llama):
    torch.save(llama.model.state_dict(), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    refused(checkpoint, r"has no safetensors weights; convert it first \(model\.save_pretrained writes them\)")


def test_pickled_weights_beside_safetensors_are_not_read(checkpoint, llama):
    (checkpoint / "pytorch_model.bin").write_bytes(b"no pickle at all")
    assert load(checkpoint).fingerprint == llama.fingerprint


def test_a_folder_without_a_tokenizer_is_told_so(tmp_path, llama):
    saved(tmp_path / "m", llama.model, tokenizer=False)
    refused(tmp_path / "m", "tokenizer")


def test_code_in_a_checkpoint_is_not_run(checkpoint, tmp_path):
    config = json.loads((checkpoint / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}}
    (checkpoint / "config.json").write_text(json.dumps(config))
    (checkpoint / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass Own: ...\n")
    refused(checkpoint, "cannot load")
    assert not (tmp_path / "ran").exists()


def test_architectures_without_a_layout_are_told_on_loading(tmp_path):
    mamba = transformers.MambaConfig(vocab_size=96, hidden_size=16, num_hidden_layers=2)
    saved(tmp_path / "m", AutoModelForCausalLM.from_config(mamba))
    refused(tmp_path / "m", "no layout for model_type 'mamba'; call dposcope.register_layout")


@pytest.mark.parametrize("dtype", ["int8", "fp16", "float64", torch.float64, ""])
def test_unknown_dtypes(checkpoint, dtype):
    refused(checkpoint, "is not one of auto, float32, bfloat16, float16", dtype=dtype)


def test_unknown_and_absent_devices(checkpoint):
    refused(checkpoint, "device 'gpu' is unknown; use auto, cpu, cuda or cuda:1", device="gpu")
    if not torch.cuda.is_available():
        refused(checkpoint, "no CUDA device is available here; use device cpu or auto", device="cuda:1")
    if not torch.backends.mps.is_available():
        refused(checkpoint, "device", device="mps")


def test_a_device_without_memory_is_no_device(checkpoint):
    refused(checkpoint, "device", device="meta")


# The hub, which no test reaches


def failing(error):
    class Nowhere:
        @staticmethod
        def from_pretrained(*_args, **_settings):
            raise error

    return Nowhere


def test_an_unknown_id_names_the_mend(monkeypatch):
    reason = "nobody/nothing is not a local folder and is not a valid model identifier\nmore lines"
    monkeypatch.setattr(loading, "AutoModelForCausalLM", failing(OSError(reason)))
    monkeypatch.setattr(loading, "hub_answers", lambda _name: True)
    message = refused(
        "nobody/nothing", "cannot load 'nobody/nothing' from the Hugging Face hub: nobody/nothing is not a"
    )
    assert message.endswith("check the id and the network")


def test_where_the_hub_does_not_answer_its_cache_is_read(monkeypatch, checkpoint):
    asked = []

    class Spy:
        @staticmethod
        def from_pretrained(source, **settings):
            asked.append((source, settings["local_files_only"]))
            raise OSError("not there")

    monkeypatch.setattr(loading, "AutoModelForCausalLM", Spy)
    monkeypatch.setattr(loading, "hub_answers", lambda _name: False)
    refused("some-org/some-model", "the Hugging Face hub does not answer, and the model is not in its cache")
    assert refused("hf:gpt2", "cannot load 'gpt2': .*or give a folder or a bundled name").count("gemma-3-270m") == 1
    assert asked == [("some-org/some-model", True), ("gpt2", True)]


def test_only_hub_ids_may_reach_the_network(checkpoint, monkeypatch, llama):
    calls = []

    class Spy:
        @staticmethod
        def from_pretrained(source, **settings):
            calls.append(settings)
            return AutoModelForCausalLM.from_pretrained(checkpoint, **settings)

    class Tokens:
        @staticmethod
        def from_pretrained(source, **settings):
            calls.append(settings)
            return bos_tokenizer()

    monkeypatch.setattr(loading, "AutoModelForCausalLM", Spy)
    monkeypatch.setattr(loading, "AutoTokenizer", Tokens)
    load(checkpoint)
    assert [call["local_files_only"] for call in calls] == [True, True]
    calls.clear()
    monkeypatch.setattr(loading, "hub_answers", lambda _name: True)
    assert load("some-org/some-model").name == "some-org/some-model"
    assert [call["local_files_only"] for call in calls] == [False, False]
    assert all(call["trust_remote_code"] is False for call in calls)
    assert calls[0]["use_safetensors"] is True


# GGUF

EMPTY_GGUF = b"GGUF" + struct.pack("<IQQ", 3, 0, 0)
"""A header without fields and tensors."""


def test_gguf_paths(tmp_path):
    refused(tmp_path / "none.gguf", "no file .*none.gguf; check the path")
    for content in (b"", b"x" * 100, b"GGUF", b"GGUF" + b"\x03\x00\x00\x00" + b"\xff" * 40):
        (tmp_path / "bad.gguf").write_bytes(content)
        refused(tmp_path / "bad.gguf", "cannot read .*bad.gguf as GGUF: .*; is the file whole?")
    (tmp_path / "folder.gguf").mkdir()
    refused(tmp_path / "folder.gguf", "no file .*folder.gguf; check the path|holds no config.json")


def test_gguf_without_its_package(tmp_path, monkeypatch):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("dposcope.model.gguf.find_spec", lambda name: None)
    with pytest.raises(DposcopeError, match=r"needs the gguf package; install it with: pip install 'dposcope\[gguf\]'"):
        load_gguf(tmp_path / "a.gguf", dtype="float32")


def test_nothing_beside_a_gguf_file_is_read(tmp_path, monkeypatch):
    """A tokenizer_config.json could name code to run, an adapter_config.json a model to fetch."""
    (tmp_path / "a.gguf").write_bytes(EMPTY_GGUF)
    for name in ("tokenizer_config.json", "config.json", "adapter_config.json"):
        (tmp_path / name).write_text('{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}}')
    seen = []

    def fake(folder, **options):
        seen.append(({path.name for path in Path(folder).iterdir()}, options))
        assert (Path(folder) / "a.gguf").read_bytes() == EMPTY_GGUF
        return None, {"missing_keys": []}

    for kind in ("AutoModelForCausalLM", "AutoTokenizer"):
        monkeypatch.setattr(f"dposcope.model.gguf.{kind}.from_pretrained", fake)
    monkeypatch.chdir(tmp_path)
    load_gguf(Path("a.gguf"), dtype="float32")
    assert [names for names, _ in seen] == [{"a.gguf"}] * 2
    assert all(options["trust_remote_code"] is False and options["local_files_only"] for _, options in seen)


def test_gguf_files_are_dequantised_to_float32_or_as_asked(tmp_path, monkeypatch, llama):
    asked = []

    def fake(path, *, dtype):
        asked.append((path, dtype))
        return GgufModel(llama.model, llama.tokenizer)

    monkeypatch.setattr(loading, "load_gguf", fake)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert load(tmp_path / "a.gguf", device="cpu").name == "a"
    load(tmp_path / "a.gguf", dtype="bfloat16", device="cpu")
    assert asked == [(tmp_path / "a.gguf", "float32"), (tmp_path / "a.gguf", "bfloat16")]


def test_loading_warns_of_nothing(checkpoint):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load(checkpoint)
    assert [str(warning.message) for warning in caught] == []


def test_garbage_collection_is_as_before_after_loading(tmp_path, llama):
    import gc

    llama.save_pretrained(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    llama.model.save_pretrained(tmp_path / "bad")  # no tokenizer
    assert gc.isenabled()
    load(tmp_path / "good")
    assert gc.isenabled()
    with pytest.raises(DposcopeError):
        load(tmp_path / "bad")
    assert gc.isenabled()
    gc.disable()
    try:
        load(tmp_path / "good")
        assert not gc.isenabled()
    finally:
        gc.enable()
