"""A checkpoint folded file by file, against hooks on the loaded model and the same numbers written out."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3Config, GPTNeoXConfig

import dposcope
from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.model.language_model import LanguageModel
from dposcope.shipping import checkpoint as shipping
from dposcope.shipping.checkpoint import fold_checkpoint
from dposcope.shipping.stored import Weights
from helpers.families import (
    MIXTURES,
    TEXTS,
    assert_close,
    bits,
    bos_tokenizer,
    build,
    logits_of,
    naive_vectors,
    random_direction,
    random_gains,
    random_head_gains,
    randomise,
    tiny,
)
from helpers.jobs import contents
from helpers.mixtures import shared_mixture
from helpers.shared_experts import SHARED

IDS = [2, 40, 41, 55, 60]


def whole_edit(lm: LanguageModel, **about) -> Edit:
    """Gains of neurons and heads, one ablation everywhere and one in some blocks."""
    return Edit.of(
        Gains(random_gains(lm)),
        Gains(random_head_gains(lm), of="heads"),
        ablate(random_direction(lm), weight=0.7),
        ablate(random_direction(lm, 1), weight=1.4, blocks=(1,), attention=False),
        about=about,
    )


def stored(lm: LanguageModel, folder, **options):
    """A checkpoint folder of a model."""
    lm.model.save_pretrained(folder, **options)
    lm.tokenizer.save_pretrained(folder)
    return folder


def read(folder, like: LanguageModel) -> LanguageModel:
    return LanguageModel(AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval(), like.tokenizer)


@pytest.mark.parametrize("shards", ["5GB", "20KB"])
def test_it_is_the_hooked_model(lm, tmp_path, shards):
    """The same greedy texts, token for token, and the same logits, from one file and from several."""
    source, edit = stored(lm, tmp_path / "base", max_shard_size=shards), whole_edit(lm)
    assert (source / "model.safetensors.index.json").exists() == (shards == "20KB")
    done = fold_checkpoint(source, edit, tmp_path / "out")
    other = read(tmp_path / "out", lm)
    with edit.on(lm):
        hooked = logits_of(lm, IDS)
        texts = [continuation.ids for continuation in dposcope.generate(lm, TEXTS)]
    assert_close(logits_of(other, IDS), hooked)
    assert not torch.allclose(logits_of(lm, IDS), hooked, atol=0.1), "the edit does nothing"
    assert [continuation.ids for continuation in dposcope.generate(other, TEXTS)] == texts
    assert done.tensors == lm.n_blocks * (4 if lm.model.config.model_type == "gpt2" else 2)
    assert done.rounding < 2**-23
    assert (done.form, done.path, done.notes) == ("checkpoint", tmp_path / "out", ())


def test_it_is_what_fold_gives_to_the_bit(lm, tmp_path):
    edit = whole_edit(lm)
    fold_checkpoint(stored(lm, tmp_path / "base"), edit, tmp_path / "out")
    assert bits(read(tmp_path / "out", lm).model) == bits(fold(lm, edit).model)


def test_against_the_formula_written_out(lm, tmp_path):
    gains, u, weight = random_gains(lm), random_direction(lm), 0.7
    u = (u / u.norm()).float().double()
    edit = Edit.of(Gains(gains), ablate(u, weight=weight, attention=False))
    fold_checkpoint(stored(lm, tmp_path / "base"), edit, tmp_path / "out")
    other = read(tmp_path / "out", lm)
    for block in range(lm.n_blocks):
        vectors = gains[block].double()[:, None] * naive_vectors(lm, block)
        assert_close(naive_vectors(other, block), vectors - weight * torch.outer(vectors @ u, u), 1e-6)


@pytest.mark.parametrize(("dtype", "worst"), [(torch.bfloat16, 2**-8), (torch.float16, 2**-11)])
def test_half_precision_is_rounded_once_and_told(tmp_path, dtype, worst):
    lm = tiny("llama", dtype=dtype)
    edit = whole_edit(lm)
    done = fold_checkpoint(stored(lm, tmp_path / "base"), edit, tmp_path / "out")
    other = read(tmp_path / "out", lm)
    assert other.dtype == dtype
    assert bits(other.model) == bits(fold(lm, edit).model)
    largest = 0.0
    for block in range(lm.n_blocks):
        module, new = lm.mlp_outs[block], other.mlp_outs[block].weight.detach().double()
        exact = module.weight.detach().double() * edit.gains.values[block].double()
        for one in [a for a in edit.ablations if a.blocks is None or block in a.blocks]:
            u = one.direction.double()
            exact = exact - one.weight * torch.outer(u, u @ exact)
        largest = max(largest, float((new - exact).abs().max() / exact.abs().max()))
    assert largest <= done.rounding <= worst
    assert done.rounding > worst / 8


def test_rows_are_worked_on_in_portions(llama, tmp_path, monkeypatch):
    edit = whole_edit(llama)
    source = stored(llama, tmp_path / "base")
    fold_checkpoint(source, edit, tmp_path / "whole")
    monkeypatch.setattr(shipping, "ROWS", 7)
    fold_checkpoint(source, edit, tmp_path / "portions")
    whole, portions = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "portions"))
    for name, tensor in whole.items():
        assert_close(portions[name], tensor, 1e-6)


def test_only_output_projections_change(lm, tmp_path):
    source = stored(lm, tmp_path / "base", max_shard_size="20KB")
    done = fold_checkpoint(source, whole_edit(lm), tmp_path / "out")
    changed = set()
    for file in source.glob("*.safetensors"):
        before, after = load_file(file), load_file(tmp_path / "out" / file.name)
        assert before.keys() == after.keys()
        changed |= {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert len(changed) == done.tensors
    assert all(any(part in name for part in ("down_proj", "o_proj", "c_proj")) for name in changed)
    for name in ("config.json", "model.safetensors.index.json", "tokenizer.json", "generation_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()


def test_a_model_that_is_only_recognised(tmp_path):
    """GPT-NeoX is in no table of ours: its layout is found by structure, without weights."""
    config = GPTNeoXConfig(
        vocab_size=260, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4
    )
    lm = LanguageModel(build(config), bos_tokenizer())
    edit = whole_edit(lm)
    fold_checkpoint(stored(lm, tmp_path / "base"), edit, tmp_path / "out")
    with edit.on(lm):
        hooked = logits_of(lm, IDS)
    assert_close(logits_of(read(tmp_path / "out", lm), IDS), hooked)


def test_gemma_with_vision(family_lm, tmp_path):
    """Its checkpoint has other names than the model, which loading changes; the vision tower stays as it is."""
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = family_lm("gemma3").model.config
    config = Gemma3Config(
        text_config=text.to_dict(), vision_config={**vision, "image_size": 28, "patch_size": 14}, mm_tokens_per_image=4
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    randomise(model, 0)
    lm = LanguageModel(model, bos_tokenizer())
    source, edit = stored(lm, tmp_path / "base"), whole_edit(lm)
    names = load_file(source / "model.safetensors").keys()
    assert not set(names) & set(lm.model.state_dict()), "names are the same, so nothing is tested"
    fold_checkpoint(source, edit, tmp_path / "out")
    assert bits(read(tmp_path / "out", lm).model) == bits(fold(lm, edit).model)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_names_without_the_base_models_prefix(family, family_lm, tmp_path):
    """As the first GPT-2 checkpoints have them."""
    lm = family_lm(family)
    source = stored(lm, tmp_path / "base")
    prefix = lm.model.base_model_prefix + "."
    tensors = {name.removeprefix(prefix): tensor for name, tensor in load_file(source / "model.safetensors").items()}
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    edit = whole_edit(lm)
    done = fold_checkpoint(source, edit, tmp_path / "out")
    assert bits(read(tmp_path / "out", lm).model) == bits(fold(lm, edit).model)
    assert load_file(tmp_path / "out/model.safetensors").keys() == tensors.keys()
    assert done.tensors == lm.n_blocks * (4 if family == "gpt2" else 2)


def test_a_part_stored_twice_is_refused(llama, tmp_path):
    source = stored(llama, tmp_path / "base")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name.removeprefix("model.")] = tensors[name].clone()
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DposcopeError, match=r"stores model.layers.0.mlp.down_proj.weight twice"):
        fold_checkpoint(source, whole_edit(llama), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_other_files_come_along_and_other_weights_do_not(llama, tmp_path):
    source = stored(llama, tmp_path / "base")
    (source / "LICENSE").write_text("terms")
    (source / "LICENSE").chmod(0o400)
    (source / "README.md").write_text("the base's card")
    (source / "pytorch_model.bin").write_text("x")
    (source / "original").mkdir()
    (source / "original/consolidated.00.pth").write_text("x")
    (source / "original/params.json").write_text("{}")
    (source / ".cache").mkdir()
    (source / ".cache/x").write_text("x")
    (source / "consolidated.safetensors").write_text("x")
    edit = whole_edit(llama, note="x")
    done = fold_checkpoint(source, edit, tmp_path / "out")
    names = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    own = {"README.md", "LICENSE", "original/params.json", "dposcope_edit.safetensors", "dposcope_edit.json"}
    assert own <= names
    assert not {"pytorch_model.bin", "original/consolidated.00.pth", "consolidated.safetensors", ".cache/x"} & names
    (note,) = done.notes
    assert note.endswith("consolidated.safetensors, original/consolidated.00.pth, pytorch_model.bin")
    card = (tmp_path / "out/README.md").read_text()
    assert edit.told(llama) in card
    assert "the base's card" not in card
    assert (tmp_path / "out/LICENSE").stat().st_mode & 0o200
    assert torch.equal(Edit.load(tmp_path / "out/dposcope_edit").gains.values, edit.gains.values)


def test_a_folded_checkpoint_is_folded_again(lm, tmp_path):
    first, second = Gains(random_gains(lm, 1)), whole_edit(lm)
    fold_checkpoint(stored(lm, tmp_path / "base"), first, tmp_path / "once")
    done = fold_checkpoint(tmp_path / "once", second, tmp_path / "twice")
    with Edit.of(first, second).on(lm):
        assert_close(logits_of(read(tmp_path / "twice", lm), IDS), logits_of(lm, IDS))
    assert done.notes == (
        "an edit was folded into the source before; dposcope_edit in the new folder holds the new edit only",
    )
    assert torch.equal(Edit.load(tmp_path / "twice/dposcope_edit").gains.values, second.gains.values)


def test_the_original_stays(lm, tmp_path):
    source = stored(lm, tmp_path / "base", max_shard_size="20KB")
    before = contents(source)
    fold_checkpoint(source, whole_edit(lm), tmp_path / "out")
    assert contents(source) == before


# Whose edit it is


def test_buffers_that_are_stored_are_a_part_of_the_fingerprint(tmp_path):
    lm = LanguageModel(build(SHARED["deepseek_v3"].config()), bos_tokenizer())
    source = stored(lm, tmp_path / "base")
    for dtype in ("float32", "bfloat16"):
        loaded = dposcope.load(source, dtype=dtype, device="cpu")
        edit = Edit.of(Gains(random_gains(lm)), about={"fingerprint": loaded.fingerprint})
        assert fold_checkpoint(source, edit, tmp_path / dtype).notes == ()
    biases = [one for name, one in lm.model.named_buffers() if name.endswith("e_score_correction_bias")]
    biases[0].add_(1)
    assert stored(lm, tmp_path / "other") != source
    assert dposcope.load(tmp_path / "other", dtype="bfloat16", device="cpu").fingerprint != loaded.fingerprint


def test_a_card_names_the_base_without_its_folder(llama, tmp_path):
    source = stored(llama, tmp_path / "private" / "base")
    fold_checkpoint(source, whole_edit(llama), tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text(encoding="utf-8")
    assert "private" not in card
    assert "`base` with a dposcope edit" in card
    source = stored(llama, tmp_path / "gemma-3-270m")
    fold_checkpoint(source, whole_edit(llama), tmp_path / "other")
    card = (tmp_path / "other/README.md").read_text(encoding="utf-8")
    assert "`./gemma-3-270m` with a dposcope edit" in card
    assert "google" not in card
    assert "license" not in card


def test_an_edit_made_in_bfloat16_is_known_beside_the_same_weights_in_float32(lm, tmp_path):
    source = stored(lm, tmp_path / "base")
    loaded = dposcope.load(source, dtype="bfloat16", device="cpu")
    assert loaded.fingerprint != lm.fingerprint
    assert fold_checkpoint(source, whole_edit(lm, fingerprint=loaded.fingerprint), tmp_path / "out").notes == ()


def test_the_models_own_fingerprint_is_known(lm, tmp_path):
    """Of tied and untied embeddings, read from files."""
    source = stored(lm, tmp_path / "base", max_shard_size="20KB")
    own = fold_checkpoint(source, whole_edit(lm, fingerprint=lm.fingerprint), tmp_path / "own")
    assert own.notes == ()
    model_type = lm.model.config.model_type
    other = fold_checkpoint(source, whole_edit(lm, fingerprint=f"{model_type}-00ff"), tmp_path / "other")
    assert other.notes == ("the edit was made for other weights, or for another precision; its shapes fit this model",)


def test_an_edit_of_another_architecture_is_refused(llama, tmp_path):
    source = stored(llama, tmp_path / "base")
    with pytest.raises(DposcopeError, match="the edit was made for a gemma2 model, but this is a llama model"):
        fold_checkpoint(source, whole_edit(llama, fingerprint="gemma2-00ff"), tmp_path / "out")


# What cannot be


def test_what_does_not_fit_is_refused_before_anything_is_written(llama, tmp_path):
    source = stored(llama, tmp_path / "base")
    for edit, told in (
        (Gains(torch.ones(2, 24) * 2), r"gains for \[2, 24\] neurons do not fit"),
        (ablate(torch.ones(5)), "residual stream"),
        (ablate(torch.ones(16), blocks=(7,)), "no block 7"),
    ):
        with pytest.raises(DposcopeError, match=told):
            fold_checkpoint(source, edit, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_values_out_of_range_are_refused(tmp_path):
    lm = tiny("llama", dtype=torch.float16)
    source = stored(lm, tmp_path / "base")
    with pytest.raises(DposcopeError, match=r"down_proj.weight out of the range of float16; use a weaker edit"):
        fold_checkpoint(source, Gains(torch.full((3, 24), 1e6)), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_folders_that_are_no_checkpoint(llama, tmp_path):
    edit = whole_edit(llama)
    source = stored(llama, tmp_path / "base", max_shard_size="20KB")
    damaged, short, pickled, other = (shutil.copytree(source, tmp_path / name) for name in ("d", "s", "p", "o"))
    first = sorted(damaged.glob("*.safetensors"))[0].name
    (damaged / first).write_bytes((source / first).read_bytes()[:-8])
    (short / first).unlink()
    for file in pickled.glob("*.safetensors*"):
        file.unlink()
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "intermediate_size": 20}))
    for folder, told in (
        (damaged, "is damaged"),
        (short, f"has no {first}, which its index names"),
        (pickled, "has no safetensors weights"),
        (tmp_path / "nothing", "is not a model"),
        ("owner/name", "hf download owner/name --local-dir FOLDER"),
    ):
        with pytest.raises(DposcopeError, match=told):
            fold_checkpoint(folder, edit, tmp_path / "out")
    with pytest.raises(DposcopeError, match=r"down_proj.weight has shape \[16, 24\], but config.json says \[16, 20\]"):
        fold_checkpoint(other, Gains(torch.full((3, 20), 2.0)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_in_an_index_stay_inside_the_folder(llama, tmp_path):
    source = stored(llama, tmp_path / "base", max_shard_size="20KB")
    index = json.loads((source / "model.safetensors.index.json").read_text())
    first = next(iter(index["weight_map"]))
    shutil.copy(source / index["weight_map"][first], tmp_path / "outside.safetensors")
    index["weight_map"][first] = "../outside.safetensors"
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DposcopeError, match="which its index names"):
        fold_checkpoint(source, whole_edit(llama), tmp_path / "out")


@pytest.mark.parametrize("there", ["folder", "file", "dangling link"])
def test_what_is_there_is_not_replaced(llama, tmp_path, there):
    source, out = stored(llama, tmp_path / "base"), tmp_path / "out"
    {"folder": out.mkdir, "file": out.touch, "dangling link": lambda: out.symlink_to("nowhere")}[there]()
    with pytest.raises(DposcopeError, match="exists already; choose another --out"):
        fold_checkpoint(source, whole_edit(llama), out)


def test_a_full_disk_leaves_nothing(llama, tmp_path, monkeypatch):
    source = stored(llama, tmp_path / "base")

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shipping.Stored, "write", full)
    with pytest.raises(DposcopeError, match=r"cannot write .*out: No space left on device; free some space"):
        fold_checkpoint(source, whole_edit(llama), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


def test_what_a_killed_run_left_is_cleared_away(llama, tmp_path):
    source = stored(llama, tmp_path / "base")
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part/stale").touch()
    fold_checkpoint(source, whole_edit(llama), tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "out"]
    assert not (tmp_path / "out/stale").exists()


def test_two_runs_at_once_do_not_meet(llama, tmp_path):
    from filelock import FileLock

    source = stored(llama, tmp_path / "base")
    with FileLock(tmp_path / ".out.lock"), pytest.raises(DposcopeError, match="another run is writing"):
        fold_checkpoint(source, whole_edit(llama), tmp_path / "out")


def test_a_tensor_is_read_from_its_place(llama, tmp_path):
    source = stored(llama, tmp_path / "base", max_shard_size="20KB")
    weights = Weights(source)
    found = {name: tensor for file in source.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert set(weights) == set(found)
    for name, tensor in found.items():
        assert torch.equal(weights[name].read(), tensor)


# Mixtures of experts


@pytest.mark.parametrize("shards", ["5GB", "20KB"])
@pytest.mark.parametrize("family", MIXTURES)
def test_experts_stored_one_by_one_or_together_are_folded_where_they_are_stored(family, shards, tmp_path):
    lm = shared_mixture(family)
    source = stored(lm, tmp_path / "base", max_shard_size=shards)
    edit = whole_edit(lm, fingerprint=lm.fingerprint)
    done = fold_checkpoint(source, edit, tmp_path / "out")
    other = read(tmp_path / "out", lm)
    assert bits(other.model) == bits(fold(lm, edit).model)
    assert Weights(tmp_path / "out").keys() == Weights(source).keys()
    assert done.notes == (), "the fingerprint is that of the loaded model"
    assert done.rounding < 2**-23
    with edit.on(lm):
        hooked = logits_of(lm, IDS)
    assert_close(logits_of(other, IDS), hooked, 2e-5)
    assert not torch.allclose(logits_of(lm, IDS), hooked, atol=0.1), "the edit does nothing"


def test_an_edit_for_other_experts_is_noticed(tmp_path):
    lm, other = tiny("mixtral"), tiny("mixtral", seed=1)
    edit = Edit.of(Gains(random_gains(lm)), about={"fingerprint": other.fingerprint})
    done = fold_checkpoint(stored(lm, tmp_path / "base"), edit, tmp_path / "out")
    assert "the edit was made for other weights" in done.notes[0]


def test_a_checkpoint_without_one_of_its_experts_is_refused(tmp_path):
    lm = tiny("qwen3_moe")
    source = stored(lm, tmp_path / "base")
    tensors = load_file(source / "model.safetensors")
    del tensors["model.layers.1.mlp.experts.4.down_proj.weight"]
    save_file(tensors, source / "model.safetensors")
    with pytest.raises(DposcopeError, match=r"layers\.1\.mlp\.experts has 6 experts, but the checkpoint holds 5; down"):
        fold_checkpoint(source, Gains(random_gains(lm)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
