"""A PEFT adapter merged into a base, against W + scale · B · A written out; and every adapter that cannot be."""

import json
from pathlib import Path

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
)
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

from dposcope.errors import DposcopeError
from dposcope.interventions.gains import Gains
from dposcope.model import adapter as adapters
from dposcope.model.adapter import check_adapter, is_adapter
from dposcope.model.generate import generate
from dposcope.model.load import load
from helpers.adapters import IDS, lora, write_adapter
from helpers.families import (
    FAMILIES,
    MIXTURES,
    TEXTS,
    assert_close,
    bits,
    bos_tokenizer,
    copied,
    hook_count,
    logits_of,
    tiny,
)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_merges_into_every_family(family, tmp_path):
    base = tiny(family)
    unmerged = write_adapter(base, lora(family, fan_in_fan_out=family == "gpt2"), tmp_path)
    before = bits(base.model)
    merged = load(tmp_path, base=base)
    assert bits(base.model) == before
    stored = load_file(tmp_path / "adapter_model.safetensors")
    own, found, adapted = dict(base.model.named_parameters()), dict(merged.model.named_parameters()), 0
    assert own.keys() == found.keys()
    for name, weight in own.items():
        stem = "base_model.model." + name.removesuffix(".weight")
        a, b = stored.get(f"{stem}.lora_A.weight"), stored.get(f"{stem}.lora_B.weight")
        if a is None:
            assert torch.equal(found[name], weight), name
            continue
        adapted += 1
        delta = 12 / 3 * b.double() @ a.double()
        plain = isinstance(base.model.get_submodule(name.removesuffix(".weight")), Conv1D)
        assert_close(found[name], weight.double() + (delta.T if plain else delta), 1e-6)
    assert adapted == base.n_blocks * (3 if family == "gpt2" else 4)
    assert_close(logits_of(merged, IDS), unmerged, 1e-4)
    assert merged.fingerprint != base.fingerprint
    assert merged.notes == (f"LORA adapter, merged into tiny-{family} in float32",)
    assert (merged.name, merged.tokenizer, merged.end_ids) == (tmp_path.name, base.tokenizer, base.end_ids)
    assert not merged.model.training
    assert {type(m) for m in merged.model.modules()} == {type(m) for m in base.model.modules()}


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_ia3_multiplies_inputs_and_outputs(family, tmp_path):
    """Of a feed-forward projection its input, of any other its output, the bias with it."""
    base = tiny(family)
    out = "mlp.c_proj" if family == "gpt2" else "down_proj"
    into = "c_attn" if family == "gpt2" else "v_proj"
    config = IA3Config(
        target_modules=[out, into], feedforward_modules=[out], task_type="CAUSAL_LM", fan_in_fan_out=family == "gpt2"
    )
    unmerged = write_adapter(base, config, tmp_path)
    merged = load(tmp_path, base=base)
    stored = load_file(tmp_path / "adapter_model.safetensors")
    for block in range(base.n_blocks):
        name = next(key for key in stored if f".{block}." in key and out in key)
        factors = stored[name].flatten().double()
        assert_close(merged.value_vectors(block), factors[:, None] * base.value_vectors(block).double(), 1e-6)
    assert_close(logits_of(merged, IDS), unmerged, 1e-4)


OTHERS = {
    "dora": lora("llama", use_dora=True),
    "rslora": lora("llama", use_rslora=True, rank_pattern={"q_proj": 2}, alpha_pattern={"up_proj": 5}),
    "bias": lora("qwen2", bias="lora_only"),
    "adalora": AdaLoraConfig(target_modules=["q_proj", "down_proj"], total_step=10, task_type="CAUSAL_LM"),
    "loha": LoHaConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"),
    "lokr": LoKrConfig(r=2, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"),
    "oft": OFTConfig(r=0, oft_block_size=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"),
    "tokens": lora("llama", trainable_token_indices=[5, 40, 55]),
    "tied tokens": lora("qwen3", trainable_token_indices=[5, 40, 55]),
    "whole modules": lora("llama", modules_to_save=["lm_head"]),
    "whole tied modules": lora("qwen3", modules_to_save=["lm_head"]),
    "whole tied embedding": lora("smollm", modules_to_save=["embed_tokens"]),
    "tied embedding": lora("qwen3", target_modules=["embed_tokens", "down_proj"]),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_adapters_merge_to_what_they_are_unmerged(kind, tmp_path):
    config = OTHERS[kind]
    base = tiny(
        "smollm"
        if kind == "whole tied embedding"
        else "qwen3"
        if "tied" in kind
        else "qwen2"
        if kind == "bias"
        else "llama"
    )
    unmerged = write_adapter(base, config, tmp_path)
    merged = load(tmp_path, base=base)
    assert not torch.allclose(logits_of(base, IDS), unmerged, atol=1e-2), "the adapter does nothing"
    assert_close(logits_of(merged, IDS), unmerged, 1e-4)
    merged.save_pretrained(tmp_path / "saved")
    assert_close(logits_of(load(tmp_path / "saved"), IDS), unmerged, 1e-4)


def test_half_precision_is_rounded_once(tmp_path):
    base = tiny("llama", dtype=torch.bfloat16)
    write_adapter(base, lora("llama"), tmp_path)
    merged = load(tmp_path, base=base)
    assert {parameter.dtype for parameter in merged.model.parameters()} == {torch.bfloat16}
    stored = load_file(tmp_path / "adapter_model.safetensors")
    stem = "base_model.model.model.layers.1.mlp.down_proj"
    delta = 4 * stored[f"{stem}.lora_B.weight"].float() @ stored[f"{stem}.lora_A.weight"].float()
    exact = base.value_vectors(1).float().T + delta
    assert torch.equal(merged.value_vectors(1).T, exact.bfloat16())
    assert load(tmp_path, base=base, dtype="float32").dtype == torch.float32


def test_the_base_that_the_config_names_is_not_asked_for(tmp_path):
    base = tiny("llama")
    write_adapter(base, lora("llama"), tmp_path)
    change_config(tmp_path, base_model_name_or_path="nobody/such-model")
    assert load(tmp_path, base=base).fingerprint != base.fingerprint


def test_merging_leaves_random_numbers_and_hooks_alone(tmp_path):
    base = tiny("llama")
    write_adapter(base, lora("llama"), tmp_path)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    handle = base.mlp_outs[0].register_forward_hook(lambda _module, _inputs, output: output * 0)
    merged = load(tmp_path, base=base)
    assert torch.equal(torch.rand(2), expected)
    assert hook_count(merged.model) == 0
    handle.remove()


@pytest.mark.parametrize("family", MIXTURES)
def test_experts_under_an_intervention_are_not_copied(family, tmp_path):
    """Who listens to experts is a part of their module, and a copy would go on listening."""
    base, ids = tiny(family), torch.tensor([[5, 7, 9]])
    write_adapter(base, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False), tmp_path)
    wanted = logits_of(load(tmp_path, base=base), [5, 7, 9])
    with Gains(torch.zeros(base.n_blocks, base.d_mlp)).on(base):
        base.model(ids)
        with pytest.raises(DposcopeError, match="outside the `with`"):
            load(tmp_path, base=base)
    assert torch.equal(logits_of(load(tmp_path, base=base), [5, 7, 9]), wanted)


def test_an_adapter_with_a_chats_tokenizer_and_a_larger_embedding(tmp_path):
    """As trainers leave it that add marks of a chat: both embeddings whole, a tokenizer, another end of text."""
    for family in ("llama", "qwen3"):
        base, folder = tiny(family), tmp_path / family
        wider, tokenizer = copied(base), bos_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": ["<user>"], "eos_token": "<turn>"})
        wider.model.resize_token_embeddings(104, mean_resizing=False)
        with torch.no_grad():
            wider.model.get_input_embeddings().weight[96:].normal_(generator=torch.Generator().manual_seed(1))
        unmerged = write_adapter(wider, lora(family), folder, embeddings=True)
        tokenizer.save_pretrained(folder)
        merged = load(folder, base=base)
        # 104 rows were made, 98 are tokens: the rest is no token and is cut.
        assert merged.model.get_input_embeddings().weight.shape[0] == len(tokenizer) == 98
        assert_close(logits_of(merged, IDS), unmerged[:, :98], 1e-4)
        assert merged.end_ids == base.end_ids | {tokenizer.convert_tokens_to_ids("<turn>")}
        assert any("2 tokens that" in note for note in merged.notes)
        generate(merged, TEXTS)


# What is refused


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(folder, base, match):
    with pytest.raises(DposcopeError, match=match) as caught:
        load(folder, base=base)
    assert "\n" not in str(caught.value)


@pytest.fixture
def written(tmp_path):
    write_adapter(tiny("llama"), lora("llama"), tmp_path / "lora")
    return tmp_path / "lora"


def test_an_adapter_alone_is_no_model(written):
    with pytest.raises(DposcopeError, match=r"is an adapter, which needs its base model"):
        load(written)


def test_without_peft(written, llama, monkeypatch):
    monkeypatch.setattr(adapters, "find_spec", lambda name: None)
    refused(written, llama, r"needs the peft package; install it with: pip install 'dposcope\[train\]'")


def test_pickled_and_damaged_weights(written, llama):
    weights = written / "adapter_model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:100])
    refused(written, llama, "cannot read .*is the file whole")
    weights.unlink()
    refused(written, llama, "has no adapter_model.safetensors; save it again")
    torch.save({}, written / "adapter_model.bin")
    refused(written, llama, r"adapter_model\.bin is a pickle, which dposcope does not read; save it again")


def test_a_model_and_an_adapter_in_one_folder(written, llama):
    llama.save_pretrained(written)
    refused(written, llama, r"holds a whole model and an adapter; move the adapter_\* files")
    with pytest.raises(DposcopeError, match="a whole model and an adapter"):
        load(written)


def test_a_config_beside_an_adapter_makes_no_model_of_it(written, llama):
    llama.model.config.save_pretrained(written)
    assert is_adapter(written)
    assert load(written, base=llama).notes


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_adapters_that_change_no_weights(kind, llama, tmp_path):
    make = {"prompt": PromptTuningConfig, "prefix": PrefixTuningConfig}[kind]
    make(task_type="CAUSAL_LM", num_virtual_tokens=2).save_pretrained(tmp_path)
    refused(tmp_path, llama, "changes no weights, so no neuron differs from the base's; give one of LORA, IA3")


@pytest.mark.parametrize(
    "content", ["{}", '{"peft_type": "X\\nY"}', '{"peft_type": ["LORA"]}', '{"peft_type": "XLORA"}']
)
def test_configs_of_no_known_kind(written, llama, content):
    (written / "adapter_config.json").write_text(content)
    refused(written, llama, "holds an adapter of kind .*, which dposcope cannot merge; give one of LORA, IA3")


def test_a_config_that_is_no_object(written, llama):
    (written / "adapter_config.json").write_text("[]")
    refused(written, llama, "holds a list where an object belongs; save the adapter again with peft's save_pretrained")


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("layer_replication", [[0, 2], [1, 3]]),
        ("megatron_config", {"a": 1}),
        ("alora_invocation_tokens", [4]),
        ("ensure_weight_tying", True),
    ],
)
def test_settings_that_a_merge_cannot_keep(written, setting, value):
    change_config(written, **{setting: value})
    with pytest.raises(DposcopeError, match=f"cannot be merged: its {setting} "):
        check_adapter(written)


def test_an_adapter_of_another_model_names_its_base(written):
    change_config(written, base_model_name_or_path="some/\nmodel")
    refused(written, tiny("gpt2"), "does not fit tiny-gpt2: .*; its config names 'some/model' as its base")
    # smollm has the same names, other widths and one block less.
    refused(written, tiny("smollm"), "does not fit tiny-smollm: .*; its config names 'some/model' as its base")


def test_no_tensor_is_left_out_in_silence(written, llama):
    """peft itself ignores tensors that have no place, and draws those that lack."""
    weights = written / "adapter_model.safetensors"
    stored = load_file(weights)
    name = "base_model.model.model.layers.2.mlp.down_proj.lora_B.weight"
    save_file({**stored, name.replace("layers.2", "layers.7"): stored[name].clone()}, weights)
    refused(written, llama, "1 tensor that the base has no place for, such as")
    save_file({key: tensor for key, tensor in stored.items() if key != name}, weights)
    refused(written, llama, "1 tensor missing, such as")
