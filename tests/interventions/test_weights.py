"""A tuned checkpoint in its base's place."""

import copy
import json
import pickle

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.weights import OtherWeights
from dposcope.model.generate import generate
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load
from helpers.families import TEXTS, bits, bos_tokenizer, build, copied, logits_of, tiny
from helpers.quantised import in_bytes
from helpers.shared_experts import SHARED


def tuned(lm, folder, scale=1.3):
    other = copied(lm)
    with torch.no_grad():
        for parameter in other.model.parameters():
            parameter.mul_(scale)
    other.save_pretrained(folder)
    return load(folder)


def test_inside_it_is_the_other_model_and_outside_the_same_bits(lm, tmp_path):
    other = tuned(lm, tmp_path)
    before, plain = bits(lm.model), generate(lm, TEXTS)
    with OtherWeights(tmp_path).on(lm):
        inside = generate(lm, TEXTS)
    assert [c.ids for c in inside] == [c.ids for c in generate(other, TEXTS)]
    assert [c.ids for c in inside] != [c.ids for c in plain]
    assert bits(lm.model) == before
    assert [c.ids for c in generate(lm, TEXTS)] == [c.ids for c in plain]


def test_a_quantised_model_is_as_before_where_the_other_cannot_take_its_place(llama, monkeypatch):
    """As when memory ends while its weights are moved."""
    lm, other = in_bytes(llama), in_bytes(copied(llama))
    other.model.model.embed_tokens.weight = torch.nn.Parameter(
        torch.empty_like(llama.model.model.embed_tokens.weight, device="meta")
    )
    monkeypatch.setattr(OtherWeights, "_beside", lambda *_: other)
    before, ids = logits_of(lm, [2, 40, 41]), [2, 40, 41]
    with torch.no_grad():
        for layer in other.blocks[0].mlp.children():
            if hasattr(layer, "scales"):
                layer.scales.mul_(2)
    with pytest.raises(NotImplementedError), OtherWeights("other").on(lm):
        pytest.fail("it cannot be entered")
    assert torch.equal(logits_of(lm, ids), before)


def test_stored_buffers_are_the_other_models_too(tmp_path):
    """DeepSeek's router has a bias that is no parameter."""
    base = LanguageModel(build(SHARED["deepseek_v3"].config()), bos_tokenizer())
    other = copied(base)
    for name, bias in other.model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            bias.copy_(torch.tensor([3.0, -3.0, 0.0, 1.0]))
    other.save_pretrained(tmp_path)
    tuned, plain = load(tmp_path, base=base), logits_of(base, [5, 7, 9, 11])
    before = bits(base.model)
    with OtherWeights(tmp_path).on(base):
        inside = logits_of(base, [5, 7, 9, 11])
        assert base.fingerprint == tuned.fingerprint
    assert torch.equal(inside, logits_of(tuned, [5, 7, 9, 11]))
    assert not torch.equal(inside, plain)
    assert bits(base.model) == before
    assert torch.equal(logits_of(base, [5, 7, 9, 11]), plain)
    assert base.fingerprint != tuned.fingerprint
    with OtherWeights(tmp_path, strength=0.0).second_model(base) as start:
        assert torch.equal(logits_of(start, [5, 7, 9, 11]), plain)
    with OtherWeights(tmp_path, strength=0.5).second_model(base) as half:
        biases = [bias for name, bias in half.model.named_buffers() if name.endswith("e_score_correction_bias")]
        own = [bias for name, bias in base.model.named_buffers() if name.endswith("e_score_correction_bias")]
        assert torch.equal(biases[0], (own[0] + torch.tensor([3.0, -3.0, 0.0, 1.0])) / 2)


def test_a_longer_context_alone_computes_the_same(tmp_path):
    """Gemma 3 has rotary positions of two kinds."""
    for family in ("gemma3", "llama"):
        lm, folder = tiny(family), tmp_path / family
        lm.save_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
        with OtherWeights(folder).on(lm):
            pass


def test_weights_that_compute_something_else_by_their_config_are_refused(llama, tmp_path):
    other = copied(llama)
    other.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    harmless = config | {"attention_dropout": 0.1, "use_cache": False, "initializer_range": 0.5}
    harmless |= {
        "unsloth_version": "2",
        "tokenizer_class": "X",
        "max_position_embeddings": 4096,
        "id2label": {"0": "a"},
    }
    (tmp_path / "config.json").write_text(json.dumps(harmless))
    with OtherWeights(tmp_path).on(llama):
        pass
    (tmp_path / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    with pytest.raises(DposcopeError, match=r"cannot stand in the place of .* \(rms_norm_eps differs\)"):
        OtherWeights(tmp_path).on(llama).__enter__()
    with OtherWeights(tmp_path).second_model(llama) as beside:
        assert beside.model.config.rms_norm_eps == 0.1
    with pytest.raises(DposcopeError, match="differ in rms_norm_eps, so nothing lies between"):
        OtherWeights(tmp_path, strength=0.5).second_model(llama).__enter__()


def test_every_checkpoint_that_stands_in_has_its_own_fingerprint(llama, tmp_path):
    """Memory that one of them has left is given to the next."""
    expected, found = [], []
    for scale in (1.1, 1.2, 1.3):
        expected.append(tuned(llama, tmp_path / str(scale), scale).fingerprint)
    for scale in (1.1, 1.2, 1.3):
        with OtherWeights(tmp_path / str(scale)).on(llama):
            found.append(llama.fingerprint)
    assert found == expected
    assert len({*found, llama.fingerprint}) == 4


def test_a_copy_knows_no_fingerprint_and_has_its_own(llama):
    """Copies of a weak reference to a storage would free it several times, which ends the process."""
    lm = copied(llama)
    before = lm.fingerprint
    for twin in (copy.deepcopy(lm), pickle.loads(pickle.dumps(lm))):
        assert twin._digested._state is None
        with torch.no_grad():
            twin.value_vectors(0).mul_(1.5)
            next(twin.model.parameters()).mul_(1.5)
        assert twin.fingerprint != before
        del twin
    assert lm.fingerprint == before


def test_along_its_tuning_each_weight_is_on_the_line(lm, tmp_path):
    own, its = dict(lm.model.named_parameters()), dict(tuned(lm, tmp_path).model.named_parameters())
    with OtherWeights(tmp_path, strength=0.25).second_model(lm) as quarter:
        for name, found in quarter.model.named_parameters():
            naive = own[name].double() + 0.25 * (its[name].double() - own[name].double())
            torch.testing.assert_close(found.double(), naive, rtol=1e-6, atol=1e-7)
    for strength, ends in ((0.0, own), (1.0, its)):
        with OtherWeights(tmp_path, strength=strength).on(lm):
            inside = {name: one.detach().clone() for name, one in lm.model.named_parameters()}
        assert all(torch.equal(inside[name], ends[name]) for name in ends)


def test_streamed_weights_along_their_tuning(llama, tmp_path):
    tuned(llama, tmp_path / "tuned")
    with OtherWeights(tmp_path / "tuned", strength=0.5).second_model(llama) as whole:
        wanted = generate(whole, TEXTS)
    with OtherWeights(tmp_path / "tuned", tmp_path, strength=0.5).second_model(llama) as streamed:
        found = generate(streamed, TEXTS)
    assert [c.ids for c in found] == [c.ids for c in wanted]


def test_an_error_inside_restores_the_weights(llama, tmp_path):
    tuned(llama, tmp_path)
    before, pointers = bits(llama.model), [p.data_ptr() for p in llama.model.parameters()]
    with pytest.raises(RuntimeError, match="mine"), OtherWeights(tmp_path).on(llama):
        raise RuntimeError("mine")
    assert bits(llama.model) == before
    assert [p.data_ptr() for p in llama.model.parameters()] == pointers


def test_it_runs_in_the_base_models_precision(tmp_path):
    lm = tiny("qwen3", dtype=torch.bfloat16)
    tuned(tiny("qwen3"), tmp_path)
    with OtherWeights(tmp_path).on(lm):
        assert {p.dtype for p in lm.model.parameters()} == {torch.bfloat16}


def test_another_architecture_is_refused(llama, gpt2, tmp_path):
    gpt2.save_pretrained(tmp_path)
    before = bits(llama.model)
    with pytest.raises(DposcopeError, match="differ in architecture"), OtherWeights(tmp_path).on(llama):
        pass
    assert bits(llama.model) == before


def test_a_model_with_more_tokens_is_refused_by_the_first_tensor_that_differs(llama, tmp_path):
    tokenizer = bos_tokenizer()
    tokenizer.add_tokens(["river"])
    other = copied(llama)
    other.model.resize_token_embeddings(97, mean_resizing=False)
    LanguageModel(other.model, tokenizer, "wide").save_pretrained(tmp_path)
    with (
        pytest.raises(DposcopeError, match=r"cannot stand in the place of tiny-llama \(lm_head.weight differs\)"),
        OtherWeights(tmp_path).on(llama),
    ):
        pass


def test_a_model_that_spells_otherwise_is_refused(llama, tmp_path):
    spelt = llama.tokenizer.backend_tokenizer.to_str().replace('"<unk>"', '"<user>"')
    tokenizer = type(llama.tokenizer)(tokenizer_object=type(llama.tokenizer.backend_tokenizer).from_str(spelt))
    other = copied(llama)
    other.model.resize_token_embeddings(99, mean_resizing=False)
    LanguageModel(other.model, tokenizer, "renamed").save_pretrained(tmp_path)
    with (
        pytest.raises(DposcopeError, match=r"\(1 token under another name than in tiny-llama\); run it beside"),
        OtherWeights(tmp_path).on(llama),
    ):
        pass


def test_a_head_of_its_own_is_refused(family_lm, tmp_path):
    """A parameter that the base does not have, since its head is its embedding."""
    lm = family_lm("smollm")
    other = copied(lm)
    other.model.lm_head.weight = torch.nn.Parameter(other.model.lm_head.weight.detach().clone())
    other.model.config.tie_word_embeddings = False
    other.save_pretrained(tmp_path)
    with pytest.raises(DposcopeError, match=r"\(lm_head.weight differs\)"), OtherWeights(tmp_path).on(lm):
        pass
