"""Checkpoints quantised by compressed-tensors, written by hand in its layout: integers times scales by row or group."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BitNetConfig

from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.model.language_model import LanguageModel
from dposcope.shipping.adapters import write_adapters
from dposcope.shipping.checkpoint import fold_checkpoint
from helpers.families import (
    CONFIGS,
    GATED,
    assert_close,
    bos_tokenizer,
    build,
    copied,
    logits_of,
    random_direction,
    random_gains,
    random_head_gains,
    tiny,
)
from helpers.shared_experts import shared_mixture_of

IDS = [2, 40, 41, 55, 60]
GROUP = 8


def quantised(weight: torch.Tensor, strategy: str) -> dict[str, torch.Tensor]:
    """int8 numbers and scales of a weight `[out, in]`, symmetric, as `int-quantized` keeps them."""
    width = weight.shape[1] if strategy == "channel" else GROUP
    groups = weight.unflatten(1, (-1, width))
    scale = groups.abs().amax(2, keepdim=True) / 127
    return {
        "weight": (groups / scale).round().clamp(-128, 127).to(torch.int8).flatten(1),
        "weight_scale": scale.squeeze(2),
    }


def dequantised(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """s·q, group by group."""
    return (weight.double().unflatten(1, (scale.shape[1], -1)) * scale.double().unsqueeze(2)).flatten(1)


def write(lm: LanguageModel, folder, strategy="channel", *, ignore=("lm_head",), dtype=torch.float32, extra=None):
    """A quantised checkpoint folder of a model, in two shards."""
    lm.model.save_pretrained(folder, max_shard_size="20KB")
    lm.tokenizer.save_pretrained(folder)
    linear = {name for name, module in lm.model.named_modules() if isinstance(module, torch.nn.Linear)}
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for file in folder.glob("*.safetensors"):
        new: dict[str, torch.Tensor] = {}
        for name, tensor in load_file(file).items():
            module = name.removesuffix(".weight")
            if module not in linear or module in ignore:
                new[name] = tensor
                continue
            for suffix, part in quantised(tensor, strategy).items():
                new[f"{module}.{suffix}"] = part.to(dtype) if suffix == "weight_scale" else part
            for suffix, part in (extra or {}).items():
                if module.endswith(suffix.rpartition(".")[0]):
                    new[f"{module}.{suffix.rpartition('.')[2]}"] = part.clone()
        save_file(new, file, metadata={"format": "pt"})
        index["weight_map"] |= dict.fromkeys(new, file.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    weights = {
        "num_bits": 8,
        "type": "int",
        "symmetric": True,
        "dynamic": False,
        "strategy": strategy,
        "group_size": GROUP if strategy == "group" else None,
    }
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": list(ignore),
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def tensors(folder) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("model*.safetensors") for name, tensor in load_file(file).items()}


def read_by_hand(lm: LanguageModel, folder) -> LanguageModel:
    """The model that s·q makes."""
    other, stored = copied(lm), tensors(folder)
    with torch.no_grad():
        for name, parameter in other.model.named_parameters():
            scale = stored.get(f"{name}_scale")
            if name in stored:
                parameter.copy_(stored[name] if scale is None else dequantised(stored[name], scale))
    return other


@pytest.mark.parametrize("strategy", ["channel", "group"])
@pytest.mark.parametrize("family", GATED)
def test_it_is_the_hooked_model(family, family_lm, strategy, tmp_path):
    lm = family_lm(family)
    source, gains = write(lm, tmp_path / "base", strategy), Gains(random_gains(lm))
    done = fold_checkpoint(source, gains, tmp_path / "out")
    before = read_by_hand(lm, source)
    with gains.on(before):
        hooked = logits_of(before, IDS)
    assert not torch.allclose(logits_of(before, IDS), hooked, atol=0.1), "the gains do nothing"
    assert_close(logits_of(read_by_hand(lm, tmp_path / "out"), IDS), hooked)
    assert (done.form, done.tensors) == ("quantised checkpoint", lm.n_blocks)
    assert 0 < done.rounding < 2**-23


@pytest.mark.parametrize("strategy", ["channel", "group"])
def test_only_scales_of_up_projections_change(llama, strategy, tmp_path):
    source, gains = write(llama, tmp_path / "base", strategy), Gains(random_gains(llama))
    fold_checkpoint(source, gains, tmp_path / "out")
    before, after = tensors(source), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {f"model.layers.{block}.mlp.up_proj.weight_scale" for block in range(3)}
    for block in range(3):
        name = f"model.layers.{block}.mlp.up_proj.weight_scale"
        assert_close(after[name], gains.values[block][:, None] * before[name], 1e-7)
    assert (source / "config.json").read_bytes() == (tmp_path / "out/config.json").read_bytes()


@pytest.mark.filterwarnings("ignore:You passed `quantization_config`")
def test_transformers_reads_it(llama, tmp_path):
    pytest.importorskip("compressed_tensors", reason="pip install compressed-tensors")
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    source, gains = write(llama, tmp_path / "base"), Gains(random_gains(llama))
    fold_checkpoint(source, gains, tmp_path / "out")

    def loaded(folder):
        settings = CompressedTensorsConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=settings, dtype=torch.float32)
        return LanguageModel(model.eval(), llama.tokenizer)

    before = loaded(source)
    assert_close(logits_of(before, IDS), logits_of(read_by_hand(llama, source), IDS))
    with gains.on(before):
        hooked = logits_of(before, IDS)
    assert_close(logits_of(loaded(tmp_path / "out"), IDS), hooked)


def test_a_mixture_with_shared_experts_is_refused(tmp_path):
    lm = shared_mixture_of("qwen2_moe")
    source = write(lm, tmp_path / "base")
    with pytest.raises(DposcopeError, match="qwen2_moe has no separate gate_proj and up_proj, so its scales cannot"):
        fold_checkpoint(source, Gains(random_gains(lm)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scales_in_half_precision_are_rounded_once_and_told(llama, tmp_path):
    source, gains = write(llama, tmp_path / "base", dtype=torch.bfloat16), Gains(random_gains(llama))
    done = fold_checkpoint(source, gains, tmp_path / "out")
    before, after = tensors(source), tensors(tmp_path / "out")
    for block in range(3):
        name = f"model.layers.{block}.mlp.up_proj.weight_scale"
        exact = gains.values[block].double()[:, None] * before[name].double()
        assert torch.equal(after[name], exact.to(torch.bfloat16))
    assert 2**-12 < done.rounding <= 2**-8


def test_up_projections_that_were_left_alone_take_gains_in_their_weights(llama, tmp_path):
    ignore = ("lm_head", *(f"model.layers.{block}.mlp.up_proj" for block in range(3)))
    source, gains = write(llama, tmp_path / "base", ignore=ignore), Gains(random_gains(llama))
    fold_checkpoint(source, gains, tmp_path / "out")
    before = read_by_hand(llama, source)
    with gains.on(before):
        hooked = logits_of(before, IDS)
    assert_close(logits_of(read_by_hand(llama, tmp_path / "out"), IDS), hooked)


def test_fixed_scales_of_activations_are_told(llama, tmp_path):
    source = write(llama, tmp_path / "base", extra={"down_proj.input_scale": torch.ones(1)})
    done = fold_checkpoint(source, Gains(random_gains(llama)), tmp_path / "out")
    (note,) = done.notes
    assert "input_scale" in note


# What cannot be


def test_what_its_scales_cannot_hold_is_refused(llama, gpt2, tmp_path):
    source, gains = write(llama, tmp_path / "base"), Gains(random_gains(llama))
    alternative = ".* fold the unquantised checkpoint and quantise the result"
    for edit, told in (
        (Edit.of(gains, ablate(random_direction(llama))), "can hold gains of neurons only" + alternative),
        (Gains(random_head_gains(llama), of="heads"), "can hold gains of neurons only" + alternative),
        (Edit(), "has no gains"),
        (Gains(torch.full((2, 24), 2.0)), "do not fit a model"),
    ):
        with pytest.raises(DposcopeError, match=told):
            fold_checkpoint(source, edit, tmp_path / "out")
    gpt2.model.save_pretrained(tmp_path / "gpt2")
    config = json.loads((tmp_path / "gpt2/config.json").read_text())
    config["quantization_config"] = {"quant_method": "compressed-tensors"}
    (tmp_path / "gpt2/config.json").write_text(json.dumps(config))
    with pytest.raises(DposcopeError, match="gpt2 has no separate gate_proj and up_proj" + alternative):
        fold_checkpoint(tmp_path / "gpt2", Gains(random_gains(gpt2)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_norm_between_up_and_down_is_refused(tmp_path):
    """It divides all neurons by their root mean square, which a row of the up projection would change."""
    config = BitNetConfig(**{**CONFIGS["llama"]().to_dict(), "model_type": "bitnet"})
    lm = LanguageModel(build(config), bos_tokenizer(), "tiny-bitnet")
    with pytest.raises(
        DposcopeError, match=r"^model.layers.0.mlp.ffn_sub_norm stands between up_proj and down_proj, .*; fold the unq"
    ):
        fold_checkpoint(write(lm, tmp_path / "base"), Gains(random_gains(lm)), tmp_path / "out")


@pytest.mark.parametrize("method", ["gptq", "awq", "torchao", "bitsandbytes", "fp8"])
def test_other_ways_of_quantising_are_refused_by_name(llama, method, tmp_path):
    source = write(llama, tmp_path / "base")
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method}
    (source / "config.json").write_text(json.dumps(config))
    told = f"is quantised by {method}, .* fold the unquantised checkpoint and quantise the result"
    with pytest.raises(DposcopeError, match=told):
        fold_checkpoint(source, Gains(random_gains(llama)), tmp_path / "out")


@pytest.mark.parametrize("scale", [torch.ones(1), torch.ones(1, 1), torch.ones(24, 1, dtype=torch.uint8)])
def test_scales_that_are_not_by_row_are_refused(llama, scale, tmp_path):
    source = write(llama, tmp_path / "base", extra={"up_proj.weight_scale": scale})
    with pytest.raises(DposcopeError, match=r"up_proj.weight_scale of shape .* is not a scale per row"):
        fold_checkpoint(source, Gains(random_gains(llama)), tmp_path / "out")


def test_adapters_of_gains_need_no_plain_weights_and_those_of_ablations_do(tmp_path):
    lm = tiny("llama")
    source = write(lm, tmp_path / "base")
    assert write_adapters(source, Gains(random_gains(lm)), tmp_path / "gains").tensors == 3
    with pytest.raises(DposcopeError, match="is quantised, and the adapter of an ablation needs"):
        write_adapters(source, ablate(random_direction(lm)), tmp_path / "ablation")
