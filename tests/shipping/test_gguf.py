"""Gains in GGUF files of tiny models: what the file's weights compute, against hooks on the weights before."""

import shutil

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from gguf.quants import dequantize

from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.sets import NeuronSet
from dposcope.shipping import gguf as shipping
from dposcope.shipping.gguf import fold_gguf
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
)
from helpers.gguf_files import parts, wide, write
from helpers.more_families import MORE

IDS = [2, 40, 41, 55, 60]


def with_weights(lm: LanguageModel, path) -> LanguageModel:
    """The model with the MLPs that a file holds."""
    other = copied(lm)
    stored = {t.name: dequantize(t.data, t.tensor_type) for t in GGUFReader(path).tensors}
    with torch.no_grad():
        for block in range(lm.n_blocks):
            for name, tensor in parts(other, block).items():
                tensor.copy_(torch.from_numpy(np.array(stored[f"blk.{block}.{name}"])))
    return other


def bytes_by_tensor(path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(path).tensors}


TOLERANCE = {"F32": 1e-5, "BF16": 2e-2}
"""Of logits, where it is not 1e-2: what rounding of scales becomes in a random model."""


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *(("llama", kind) for kind in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F32", "F16", "BF16")),
        *((family, kind) for family in GATED if family != "llama" for kind in ("Q4_1", "F32")),
    ],
)
def test_the_file_computes_what_the_hooked_model_does(family, kind, tmp_path):
    """Negative gains and zeros among them; the file's own weights are the model's."""
    lm = wide(family)
    gains = Gains(random_gains(lm))
    source = write(lm, tmp_path / "base.gguf", kind)
    done = fold_gguf(source, gains, tmp_path / "out.gguf")
    before, after = with_weights(lm, source), with_weights(lm, tmp_path / "out.gguf")
    with gains.on(before):
        hooked = logits_of(before, IDS)
    found = logits_of(after, IDS)
    for block in range(lm.n_blocks):
        old, new = (parts(one, block)["ffn_up.weight"].detach().double() for one in (before, after))
        assert_close(new, gains.values[block].double()[:, None] * old, 4e-3 if kind == "BF16" else 1e-3)
    assert not torch.allclose(logits_of(before, IDS), hooked, atol=0.1), "the gains do nothing"
    assert_close(found, hooked, TOLERANCE.get(kind, 1e-2))
    assert (done.form, done.tensors) == ("gguf", len(gains.touched.mask.any(1).nonzero()))
    assert 0 < done.rounding <= {"F32": 2**-24, "BF16": 2**-8}.get(kind, 2**-11)


def two_widths() -> LanguageModel:
    """The last two of its four blocks have twice as many neurons."""
    config = MORE["gemma4_wide"].config()
    config.hidden_size = 32
    return LanguageModel(build(config), bos_tokenizer(), "gemma4")


@pytest.mark.parametrize("kind", ["Q4_0", "F32"])
def test_blocks_of_two_widths_take_their_own_gains(kind, tmp_path):
    lm = two_widths()
    assert lm.columns.widths == [24, 24, 48, 48]
    there = NeuronSet.of(lm).mask
    gains = Gains(random_gains(lm).where(there, 1))
    source = write(lm, tmp_path / "base.gguf", kind)
    assert fold_gguf(source, gains, tmp_path / "out.gguf").tensors == 4
    before, after = with_weights(lm, source), with_weights(lm, tmp_path / "out.gguf")
    for block, width in enumerate(lm.columns.widths):
        old, new = (parts(one, block)["ffn_up.weight"].detach().double() for one in (before, after))
        assert_close(new, gains.values[block, :width].double()[:, None] * old, 1e-3)
    with gains.on(before):
        assert_close(logits_of(after, IDS), logits_of(before, IDS), TOLERANCE.get(kind, 1e-2))
    beyond = torch.ones(4, 48)
    beyond[1, 24] = 2.0
    refused(tmp_path, source, Gains(beyond), "change neurons of block 1 beyond its 24")
    refused(
        tmp_path, source, Gains(torch.full((4, 24), 2.0)), "gains of 24 neurons per block do not fit a file with 48"
    )


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16"])
def test_without_a_gate_the_down_projections_columns_are_scaled(kind, tmp_path):
    lm = wide("gpt2")
    gains = Gains(random_gains(lm))
    source = write(lm, tmp_path / "base.gguf", "F32", down=kind)
    fold_gguf(source, gains, tmp_path / "out.gguf")
    before = with_weights(lm, source)
    with gains.on(before):
        hooked = logits_of(before, IDS)
    assert_close(
        logits_of(with_weights(lm, tmp_path / "out.gguf"), IDS), hooked, {"F32": 1e-5, "BF16": 2e-2}.get(kind, 3e-3)
    )
    old, new = bytes_by_tensor(source), bytes_by_tensor(tmp_path / "out.gguf")
    assert {name for name in old if old[name] != new[name]} == {f"blk.{b}.ffn_down.weight" for b in range(lm.n_blocks)}


def test_without_a_gate_block_formats_are_refused(tmp_path):
    config = CONFIGS["gpt2"]()
    config.n_embd, config.n_inner = 32, 64
    lm = LanguageModel(build(config), bos_tokenizer(), "gpt2")
    source = write(lm, tmp_path / "base.gguf", "Q8_0", down="Q8_0")
    with pytest.raises(DposcopeError, match=r"gpt2 has no gate, .* Q8_0 has scales of rows only; fold the unquantised"):
        fold_gguf(source, Gains(random_gains(lm)), tmp_path / "out.gguf")


def test_a_bias_of_the_up_projection_is_scaled_with_it(tmp_path):
    lm = wide("llama")
    biases = {f"blk.{b}.ffn_up.bias": torch.arange(1.0, lm.d_mlp + 1) for b in range(lm.n_blocks)}
    gains = Gains(random_gains(lm))
    done = fold_gguf(write(lm, tmp_path / "base.gguf", extra=biases), gains, tmp_path / "out.gguf")
    new = {t.name: t.data for t in GGUFReader(tmp_path / "out.gguf").tensors}
    for block in range(lm.n_blocks):
        expected = gains.values[block] * torch.arange(1.0, lm.d_mlp + 1)
        assert np.array_equal(new[f"blk.{block}.ffn_up.bias"], expected.numpy())
    assert done.tensors == 2 * lm.n_blocks


def test_everything_else_stays_to_the_bit(tmp_path):
    lm = wide("llama")
    values = random_gains(lm)
    values[1] = 1.0
    source = write(lm, tmp_path / "base.gguf")
    kept = source.read_bytes()
    fold_gguf(source, Gains(values), tmp_path / "out.gguf")
    assert source.read_bytes() == kept
    new = (tmp_path / "out.gguf").read_bytes()
    assert len(new) == len(kept)
    names = {
        name for name, data in bytes_by_tensor(source).items() if data != bytes_by_tensor(tmp_path / "out.gguf")[name]
    }
    assert names == {"blk.0.ffn_up.weight", "blk.2.ffn_up.weight"}
    inside = np.zeros(len(kept), bool)
    for tensor in GGUFReader(source).tensors:
        if tensor.name in names:
            inside[tensor.data_offset : tensor.data_offset + tensor.n_bytes] = True
    assert not (np.frombuffer(kept, np.uint8) != np.frombuffer(new, np.uint8))[~inside].any()


def test_a_vocabulary_is_passed_over_and_tensors_are_where_the_library_finds_them(tmp_path):
    """Item by item, a large one would take as many seconds as all weights."""
    lm = wide("llama")
    words = ["", "a", "ü", "a long one with spaces"] * 50
    arrays = {
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.scores": [float(n) for n in range(200)],
        "tokenizer.ggml.token_type": list(range(200)),
    }
    for name, value in arrays.items():
        write(lm, tmp_path / "base.gguf", fields={name: value, "general.alignment": 64})
        ours, theirs = shipping._open(tmp_path / "base.gguf"), GGUFReader(tmp_path / "base.gguf")
        assert list(ours.fields) == list(theirs.fields)
        assert len(ours.fields[name].parts) < 9 < len(theirs.fields[name].parts)
        assert len(ours.tensors) == len(theirs.tensors) > 0
        for one, other in zip(ours.tensors, theirs.tensors, strict=True):
            assert (one.name, one.data_offset, one.tensor_type) == (other.name, other.data_offset, other.tensor_type)
            assert np.array_equal(one.data, other.data)


def test_gains_of_one_leave_a_copy(tmp_path):
    lm = wide("llama")
    source = write(lm, tmp_path / "base.gguf")
    done = fold_gguf(source, Gains.ones(lm.n_blocks, lm.d_mlp), tmp_path / "out.gguf")
    assert (tmp_path / "out.gguf").read_bytes() == source.read_bytes()
    assert (done.tensors, done.rounding) == (0, 0.0)


def test_what_is_told_of_the_edits_origin(tmp_path):
    lm = wide("mistral")
    source, gains = write(lm, tmp_path / "base.gguf"), Gains(random_gains(lm))
    done = fold_gguf(source, Edit.of(gains, about={"fingerprint": "mistral-0f"}), tmp_path / "out.gguf")
    assert done.notes == (
        "only the shape, 3×24 neurons, was checked: the file may be another model than the edit was made for",
    )
    with pytest.raises(DposcopeError, match="the edit was made for a gemma2 model, but the file holds a llama model"):
        fold_gguf(source, Edit.of(gains, about={"fingerprint": "gemma2-0f"}), tmp_path / "other.gguf")
    lm = LanguageModel(lm.model, lm.tokenizer, "starcoder2")
    done = fold_gguf(write(lm, tmp_path / "new.gguf"), gains, tmp_path / "new-out.gguf")
    assert done.notes == ("architecture starcoder2 is not tested; check what the model generates",)


# What cannot be


def refused(tmp_path, source, edit, told):
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DposcopeError, match=told):
        fold_gguf(source, edit, tmp_path / "out.gguf")
    assert sorted(tmp_path.iterdir()) == before


def test_more_than_gains_of_neurons_is_refused(tmp_path):
    lm = wide("llama")
    source, gains = write(lm, tmp_path / "base.gguf"), Gains(random_gains(lm))
    heads = Gains(random_head_gains(lm), of="heads")
    refused(
        tmp_path, source, Edit.of(gains, ablate(random_direction(lm))), "an ablation .* fold the unquantised checkpoint"
    )
    refused(tmp_path, source, Edit.of(gains, heads), "gains of heads .* fold the unquantised checkpoint")
    refused(tmp_path, source, heads, "gains of heads")
    refused(tmp_path, source, Edit(), "has no gains")


def test_files_that_do_not_fit_are_refused(tmp_path):
    lm = wide("llama")
    gains = Gains(random_gains(lm))
    source = write(lm, tmp_path / "base.gguf")
    refused(tmp_path, source, Gains(torch.full((2, 24), 2.0)), "gains of 2 blocks do not fit a file of 3")
    refused(
        tmp_path, source, Gains(torch.full((3, 20), 2.0)), "gains of 20 neurons per block do not fit a file with 24"
    )
    refused(tmp_path, source, Gains(torch.full((3, 24), 1e9)), "out of the range of F16")
    split = write(lm, tmp_path / "split.gguf", fields={"split.count": 2})
    refused(tmp_path, split, gains, "one part of several; join them first")
    experts = {f"blk.{b}.ffn_up_exps.weight": torch.ones(2, 32) for b in range(3)}
    refused(tmp_path, write(lm, tmp_path / "moe.gguf", extra=experts), gains, "mixture of experts")
    fused = {f"blk.{b}.ffn_up.weight": torch.ones(48, 32) for b in range(3)}
    other = write(lm, tmp_path / "fused.gguf", extra=fused, leave_out=("ffn_gate.weight",))
    refused(tmp_path, other, gains, "keeps gate and up projection in one tensor")
    norms = {f"blk.{b}.ffn_sub_norm.weight": torch.ones(24) for b in range(3)}
    normed = write(lm, tmp_path / "normed.gguf", extra=norms)
    told = r"^blk.0.ffn_sub_norm stands between ffn_up and ffn_down, so rows of ffn_up cannot hold gains; fold the unq"
    refused(tmp_path, normed, gains, told)
    refused(
        tmp_path,
        write(lm, tmp_path / "odd.gguf", leave_out=("ffn_down.weight",)),
        gains,
        "no blk.0.ffn_up and ffn_down",
    )
    refused(tmp_path, tmp_path / "nothing.gguf", gains, "no file")


def test_damaged_files_are_refused(tmp_path):
    lm = wide("llama")
    whole = write(lm, tmp_path / "base.gguf").read_bytes()
    (tmp_path / "text.gguf").write_text("this is no model, just text that is long enough to be one")
    (tmp_path / "short.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.gguf").touch()
    for name in ("text", "short", "empty"):
        refused(tmp_path, tmp_path / f"{name}.gguf", Gains(random_gains(lm)), "is the file whole")


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    lm = wide("llama")
    source = write(lm, tmp_path / "base.gguf")

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shipping.shutil, "copyfile", full)
    refused(tmp_path, source, Gains(random_gains(lm)), "cannot write .*out.gguf: No space left on device")
    monkeypatch.undo()
    shutil.copyfile(source, tmp_path / "out.gguf")
    refused(tmp_path, source, Gains(random_gains(lm)), "exists already")
