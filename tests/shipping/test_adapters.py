"""Adapters through PEFT itself, against hooks on the plain model."""

import json
import re
import warnings
from contextlib import contextmanager

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import dposcope
from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.model.language_model import LanguageModel
from dposcope.shipping.adapters import write_adapters
from helpers.alternating import made as alternating
from helpers.families import (
    CONFIGS,
    TEXTS,
    assert_close,
    bits,
    bos_tokenizer,
    build,
    copied,
    logits_of,
    naive_vectors,
    random_direction,
    random_gains,
    random_head_gains,
    tiny,
)
from helpers.more_families import MORE

IDS = [2, 40, 41, 55, 60]


def gains_of(lm) -> Edit:
    return Edit.of(Gains(random_gains(lm)), Gains(random_head_gains(lm), of="heads"))


def ablations_of(lm) -> Edit:
    """Two that overlap, so that the second sees what the first left; the second not everywhere."""
    first = random_direction(lm)
    second = first / first.norm() + 0.5 * random_direction(lm, 1) / random_direction(lm, 1).norm()
    return Edit.of(ablate(first, weight=0.7), ablate(second, weight=1.4, blocks=(1,), attention=False))


def stored(lm, folder):
    lm.model.save_pretrained(folder, max_shard_size="20KB")
    lm.tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def wrapped(lm, *folders):
    """The model with adapters put on in turn, in a copy."""
    model = copied(lm).model
    with warnings.catch_warnings():
        # peft remarks that a model is wrapped a second time, which is meant, and asks a property of an older name.
        warnings.filterwarnings("ignore", message=r"(?s).*(second time|multiple adapters|is_gradient_checkpointing)")
        for folder in folders:
            plain = model.get_base_model() if isinstance(model, PeftModel) else model
            model = PeftModel.from_pretrained(plain, folder)
    yield model.eval()


@torch.no_grad()
def logits(model):
    return model(input_ids=torch.tensor([IDS]), use_cache=False).logits[0]


@pytest.mark.parametrize("kind", ["gains", "ablation"])
def test_one_kind_is_the_hooked_model(lm, tmp_path, kind):
    edit = (gains_of if kind == "gains" else ablations_of)(lm)
    done = write_adapters(stored(lm, tmp_path / "base"), edit, tmp_path / "out")
    with edit.on(lm):
        hooked = logits_of(lm, IDS)
        texts = [continuation.ids for continuation in dposcope.generate(lm, TEXTS)]
    assert not torch.allclose(logits_of(lm, IDS), hooked, atol=0.1), "the edit does nothing"
    with wrapped(lm, tmp_path / "out" / kind) as model:
        assert_close(logits(model), hooked)
        inner = LanguageModel(model.get_base_model(), lm.tokenizer)
        with torch.no_grad():
            for text, expected in zip(TEXTS, texts, strict=True):
                ids = inner.tokenizer(text, return_tensors="pt")["input_ids"]
                found = model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    max_new_tokens=20,
                    do_sample=False,
                    pad_token_id=lm.pad_id,
                )[0, ids.shape[1] :].tolist()
                assert found[: len(expected)] == list(expected)
        with model.disable_adapter():
            assert torch.equal(logits(model), logits_of(lm, IDS))
        assert_close(logits(model), hooked)
    assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir()) == [kind]
    assert (done.form, done.rounding, done.notes) == ("adapters", 0.0, ())


def test_both_together_are_the_whole_edit_and_each_alone_its_part(lm, tmp_path):
    edit = Edit.of(gains_of(lm), ablations_of(lm))
    write_adapters(stored(lm, tmp_path / "base"), edit, tmp_path / "out")
    with edit.on(lm):
        whole = logits_of(lm, IDS)
    with wrapped(lm, tmp_path / "out/ablation", tmp_path / "out/gains") as model:
        assert_close(logits(model), whole)
        with model.disable_adapter():
            assert torch.equal(logits(model), logits_of(lm, IDS))
        assert_close(logits(model), whole)
    for part, kind in ((gains_of(lm), "gains"), (ablations_of(lm), "ablation")):
        with part.on(lm):
            alone = logits_of(lm, IDS)
        assert not torch.allclose(alone, whole, atol=0.05)
        with wrapped(lm, tmp_path / "out" / kind) as model:
            assert_close(logits(model), alone)


def test_the_numbers_written_out(lm, tmp_path):
    """ia3_l is g; B A is −w u (uᵀ W), and B's bias −w (u·b) u."""
    gains, u, weight = random_gains(lm), random_direction(lm), 0.7
    u = (u / u.norm()).float().double()
    write_adapters(
        stored(lm, tmp_path / "base"),
        Edit.of(Gains(gains), ablate(u, weight=weight, attention=False)),
        tmp_path / "out",
    )
    ia3 = load_file(tmp_path / "out/gains/adapter_model.safetensors")
    lora = load_file(tmp_path / "out/ablation/adapter_model.safetensors")
    gpt2 = lm.model.config.model_type == "gpt2"
    assert len(lora) == (3 if gpt2 else 2) * lm.n_blocks
    for block in range(lm.n_blocks):
        name = (
            f"base_model.model.transformer.h.{block}.mlp.c_proj"
            if gpt2
            else (f"base_model.model.model.layers.{block}.mlp.down_proj")
        )
        assert torch.equal(ia3[f"{name}.ia3_l"], gains[block][None])
        a, b = lora[f"{name}.lora_A.weight"], lora[f"{name}.lora_B.weight"]
        assert a.shape[0] == b.shape[1] == 1
        assert_close(b.double() @ a.double(), -weight * torch.outer(u, naive_vectors(lm, block) @ u), 1e-6)
        if gpt2:
            bias = lm.model.transformer.h[block].mlp.c_proj.bias.detach().double()
            assert_close(lora[f"{name}.lora_B.bias"], -weight * (bias @ u) * u, 1e-6)


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_they_merge_into_what_folding_gives(family, family_lm, tmp_path):
    lm = family_lm(family)
    edit = ablations_of(lm)
    write_adapters(stored(lm, tmp_path / "base"), edit, tmp_path / "out")
    merged = dposcope.load(tmp_path / "out/ablation", base=lm)
    assert_close(logits_of(merged, IDS), logits_of(dposcope.fold(lm, edit), IDS), 1e-4)


@pytest.mark.filterwarnings("ignore:(?s).*(second time|multiple adapters|is_gradient_checkpointing)")
@pytest.mark.parametrize("biased", [(), ("attention_bias",), ("mlp_bias",), ("attention_bias", "mlp_bias")])
def test_the_card_loads_and_merges_where_some_projections_have_a_bias(biased, tmp_path, monkeypatch):
    """A LoRA with biases of its own does not merge into a layer without one."""
    config = CONFIGS["llama"]()
    for name in biased:
        setattr(config, name, True)
    lm = LanguageModel(build(config), bos_tokenizer(), "tiny-llama")
    edit = Edit.of(gains_of(lm), ablations_of(lm))
    write_adapters(stored(lm, tmp_path / "base"), edit, tmp_path / "out")
    loras = ["ablation-no-bias", "ablation-bias"] if len(biased) == 1 else ["ablation"]
    assert {path.parent.name for path in tmp_path.glob("out/*/adapter_config.json")} == {*loras, "gains"}
    monkeypatch.chdir(tmp_path / "out")
    load, merge = re.findall(r"```python\n(.*?)```", (tmp_path / "out/README.md").read_text(), re.DOTALL)
    with edit.on(lm):
        whole = logits_of(lm, IDS)
    told = {"base": copied(lm).model}
    exec(load, told)
    assert_close(logits(told["model"].eval()), whole)
    with told["model"].disable_adapter():
        assert torch.equal(logits(told["model"]), logits_of(lm, IDS))
    told |= {"base": copied(lm).model}
    exec(merge, told)
    assert_close(logits(told["model"].eval()), whole, 1e-4)
    assert not any("lora" in name or "ia3" in name for name in told["model"].state_dict())
    merged = lm
    for kind in (*loras, "gains"):
        merged = dposcope.load(tmp_path / "out" / kind, base=merged)
    assert_close(logits_of(merged, IDS), whole, 1e-4)


def test_they_sit_on_a_base_in_half_precision(tmp_path):
    """The same products as the hooks, which work in float32 too."""
    lm = tiny("llama", dtype=torch.bfloat16)
    edit = gains_of(lm)
    write_adapters(stored(lm, tmp_path / "base"), edit, tmp_path / "out")
    with edit.on(lm):
        hooked = logits_of(lm, IDS)
    with wrapped(lm, tmp_path / "out/gains") as model:
        assert torch.equal(logits(model), hooked)


def test_the_model_is_not_loaded_and_blocks_left_alone_get_none(llama, tmp_path):
    values = torch.ones(3, 24)
    values[1] = 0.5
    before = bits(llama.model)
    done = write_adapters(stored(llama, tmp_path / "base"), Gains(values), tmp_path / "out")
    assert bits(llama.model) == before
    assert done.tensors == 1
    config = json.loads((tmp_path / "out/gains/adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.1.mlp.down_proj"]
    assert config["base_model_name_or_path"] == str(tmp_path / "base")


def test_the_card_says_which_folder_holds_what(llama, tmp_path):
    source = stored(llama, tmp_path / "base")
    edit = Edit.of(gains_of(llama), ablations_of(llama))
    write_adapters(source, edit, tmp_path / "both")
    both = (tmp_path / "both/README.md").read_text()
    assert "| `gains/` | IA³" in both
    assert "| `ablation/` | LoRA" in both
    assert both.index('from_pretrained(base, "ablation")') < both.index('from_pretrained(model, "gains")')
    assert str(edit) in both
    write_adapters(source, gains_of(llama), tmp_path / "one")
    assert "ablation" not in (tmp_path / "one/README.md").read_text()


def test_what_cannot_be_is_refused(llama, tmp_path):
    source = stored(llama, tmp_path / "base")
    for edit, told in (
        (Edit(), "changes nothing"),
        (ablate(torch.ones(16), weight=0.0), "changes nothing"),
        (Gains(torch.full((2, 24), 2.0)), r"gains for \[2, 24\] neurons do not fit"),
        (Edit.of(gains_of(llama), about={"fingerprint": "gemma2-0f"}), "made for a gemma2 model"),
    ):
        with pytest.raises(DposcopeError, match=told):
            write_adapters(source, edit, tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(DposcopeError, match="exists already"):
        write_adapters(source, gains_of(llama), tmp_path / "there")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "there"]


@pytest.mark.parametrize("family", ["falcon_h1", "granitemoehybrid", "nemotron_h"])
def test_state_spaces_keep_what_they_write(family, tmp_path):
    """peft has no LoRA for it, so an edit of it is refused; of the MLPs all is exact."""
    lm = alternating("dense") if family == "nemotron_h" else MORE[family].build()
    source = stored(lm, tmp_path / "base")
    edit = Edit.of(Gains(random_gains(lm)), ablate(random_direction(lm), weight=0.7, attention=False))
    write_adapters(source, edit, tmp_path / "out")
    with edit.on(lm):
        expected = logits_of(lm, IDS)
    with wrapped(lm, tmp_path / "out/ablation", tmp_path / "out/gains") as model:
        assert_close(logits(model), expected, 1e-5)
    with pytest.raises(
        DposcopeError, match=r"what the edit does to .*(mamba|mixer)\.out_proj, as peft has no LoRA for state"
    ):
        write_adapters(source, Edit.of(ablate(random_direction(lm))), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
