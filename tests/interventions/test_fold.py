"""Folding: the edit in the weights is the edit in hooks, and the caller's model never changes."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import ablate
from dposcope.interventions.assign import Assign
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold, fold_, folded, in_effect
from dposcope.interventions.gains import Gains
from dposcope.interventions.steer import Steer
from dposcope.model.frames import Positions
from dposcope.model.generate import generate
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.sets import NeuronSet
from helpers import families
from helpers.edits import EDITS, IDS, ablation_of, both_of, gains_of
from helpers.families import (
    MIXTURES,
    TEXTS,
    assert_close,
    bits,
    copied,
    hook_count,
    logits_of,
    random_direction,
    random_gains,
)
from helpers.mixtures import shared_mixture, vectors_of
from helpers.quantised import by_hand, in_bytes


def assign_of(lm):
    values = torch.randn(lm.n_blocks, lm.d_mlp, generator=torch.Generator().manual_seed(8))
    return Assign(values, NeuronSet(values > 0.5), positions=Positions.ALL)


def texts_of(lm):
    return [continuation.ids for continuation in generate(lm, TEXTS, new_tokens=10)]


def loaded_plainly(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


# Folded is hooked


def test_what_has_no_weights_to_go_into_is_refused(lm):
    with pytest.raises(DposcopeError, match=r"a Steer does not fold into weights; fold gains, an ablation, an Edit"):
        fold(lm, Steer(random_direction(lm), 1.0))


@pytest.mark.parametrize("kind", EDITS)
def test_folded_is_hooked(lm, kind):
    edit = EDITS[kind](lm)
    with edit.on(lm):
        hooked, hooked_texts = logits_of(lm, IDS), texts_of(lm)
    other = fold(lm, edit)
    assert_close(logits_of(other, IDS), hooked)
    assert texts_of(other) == hooked_texts
    assert hook_count(other.model) == 0
    assert not torch.allclose(hooked, logits_of(lm, IDS), atol=1e-2)
    with folded(lm, edit) as inside:
        assert inside is lm
        assert torch.equal(logits_of(lm, IDS), logits_of(other, IDS))


def test_assigned_constants_fold_where_there_is_a_bias(gpt2):
    assign = assign_of(gpt2)
    with assign.on(gpt2):
        hooked, hooked_texts = logits_of(gpt2, IDS), texts_of(gpt2)
    other = fold(gpt2, assign)
    assert_close(logits_of(other, IDS), hooked)
    assert texts_of(other) == hooked_texts
    with folded(gpt2, assign):
        assert torch.equal(logits_of(gpt2, IDS), logits_of(other, IDS))


def test_assigned_constants_do_not_fold_elsewhere(lm, gpt2):
    if lm is gpt2:
        pytest.skip("has a bias")
    with pytest.raises(DposcopeError, match=r"has a bias \(GPT-2\).* has none; keep the hooks, or use gains"):
        fold(lm, assign_of(lm))
    with pytest.raises(DposcopeError, match="has none"), folded(lm, assign_of(lm)):
        pytest.fail("entered")


@pytest.mark.parametrize("where", ["last", "generated", "prompt", "first"])
def test_positions_do_not_fold(gpt2, where):
    with pytest.raises(DposcopeError, match=f"positions '{where}' do not fold"):
        fold(gpt2, replace(assign_of(gpt2), positions=where))
    with pytest.raises(DposcopeError, match="all positions"):
        fold(gpt2, replace(gains_of(gpt2), positions=where))


@pytest.mark.parametrize("kind", EDITS)
def test_a_folded_model_is_an_ordinary_checkpoint(lm, kind, tmp_path):
    other = fold(lm, EDITS[kind](lm))
    other.save_pretrained(tmp_path)
    plain = loaded_plainly(tmp_path)
    assert type(plain) is type(lm.model)
    loaded = LanguageModel(plain, lm.tokenizer)
    assert torch.equal(logits_of(loaded, IDS), logits_of(other, IDS))
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= names
    assert texts_of(loaded) == texts_of(other)


def test_the_weights_are_those_of_the_formula(lm):
    """V := diag(g) V (I − w u uᵀ) and b := b (I − w u uᵀ), entry by entry in float64."""
    values, direction, weight = random_gains(lm), random_direction(lm), 0.7
    u = (direction / direction.norm()).float().double()
    shrink = torch.eye(lm.d_model, dtype=torch.float64) - weight * torch.outer(u, u)
    other = fold(lm, Edit.of(Gains(values), ablate(direction, weight=weight)))
    for block in range(lm.n_blocks):
        expected = torch.diag(values[block].double()) @ families.naive_vectors(lm, block) @ shrink
        assert torch.equal(families.naive_vectors(other, block).float(), expected.float())
    before, after = lm.model.state_dict(), other.model.state_dict()
    touched = {name for name in before if not torch.equal(before[name], after[name])}
    projections = ("mlp.c_proj", "attn.c_proj") if lm.model.config.model_type == "gpt2" else ("down_proj", "o_proj")
    assert touched == {name for name in before if any(part in name for part in projections)}


def test_blocks_without_an_edit_keep_their_weights(lm):
    values = torch.ones(lm.n_blocks, lm.d_mlp)
    values[1, 2] = 3.0
    other = fold(lm, Gains(values))
    before, after = lm.model.state_dict(), other.model.state_dict()
    touched = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(touched) == 1
    assert ".1." in touched[0]
    assert int((before[touched[0]] != after[touched[0]]).sum()) == lm.d_model


# Mixtures of experts


@pytest.mark.parametrize("family", MIXTURES)
@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_of_a_mixture_folds_into_its_3d_weights_and_reloads_in_plain_transformers(family, kind, tmp_path):
    lm = shared_mixture(family)
    edit = EDITS[kind](lm)
    with edit.on(lm):
        hooked, hooked_texts = logits_of(lm, IDS), texts_of(lm)
    assert not torch.allclose(hooked, logits_of(lm, IDS), atol=1e-2)
    other = fold(lm, edit)
    assert_close(logits_of(other, IDS), hooked, 2e-5)
    assert texts_of(other) == hooked_texts
    with folded(lm, edit):
        assert torch.equal(logits_of(lm, IDS), logits_of(other, IDS))
    other.save_pretrained(tmp_path)
    loaded = LanguageModel(loaded_plainly(tmp_path), lm.tokenizer)
    assert torch.equal(logits_of(loaded, IDS), logits_of(other, IDS))
    assert texts_of(loaded) == hooked_texts


@pytest.mark.parametrize("family", MIXTURES)
def test_the_weights_of_experts_are_those_of_the_formula(family):
    lm = shared_mixture(family)
    values, direction, weight = random_gains(lm), random_direction(lm), 0.7
    u = (direction / direction.norm()).float().double()
    shrink = torch.eye(lm.d_model, dtype=torch.float64) - weight * torch.outer(u, u)
    other = fold(lm, Edit.of(Gains(values), ablate(direction, weight=weight)))
    width = lm.experts.width
    for block in range(lm.n_blocks):
        for expert in range(lm.experts.count):
            gains = values[block, expert * width : (expert + 1) * width].double()
            expected = torch.diag(gains) @ vectors_of(lm, block, expert) @ shrink
            assert torch.equal(vectors_of(other, block, expert).float(), expected.float())
    before, after = lm.model.state_dict(), other.model.state_dict()
    touched = {name for name in before if not torch.equal(before[name], after[name])}
    assert touched == {name for name in before if any(part in name for part in ("down_proj", "o_proj"))}


def test_assigned_constants_do_not_fold_into_a_mixture():
    lm = shared_mixture("gpt_oss")
    with pytest.raises(DposcopeError, match="do not fold into a mixture of experts, as the router decides"):
        fold(lm, assign_of(lm))


# Half precision

# Half a unit in the last place, relative: what one rounding of a weight can cost.
HALF_STEP = {torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12}


@pytest.mark.parametrize("dtype", HALF_STEP)
@pytest.mark.parametrize("kind", EDITS)
def test_in_half_precision_weights_are_rounded_once(lm, kind, dtype):
    half = copied(lm)
    half.model.to(dtype)
    before = bits(half.model)
    edit = EDITS[kind](half)
    other = fold(half, edit)
    assert bits(half.model) == before
    assert other.dtype == dtype
    exact = copied(half)
    exact.model.double()  # not for running: to hold what was rounded
    fold_(exact, edit)
    rounded, wanted = other.model.state_dict(), exact.model.state_dict()
    for name, weight in rounded.items():
        assert weight.dtype == dtype
        # 2e-8: below the smallest normal float16 steps are even.
        bound = 2 * HALF_STEP[dtype] * wanted[name].abs() + 3e-8
        assert ((weight.double() - wanted[name].double()).abs() <= bound).all(), name


@pytest.mark.parametrize("dtype", HALF_STEP)
def test_in_half_precision_folded_is_hooked_up_to_rounding(lm, dtype):
    """A tiny model's logits move by a few steps of its precision: 1 % of their spread bounds it amply in float16."""
    half = copied(lm)
    half.model.to(dtype)
    edit = Edit.of(Gains(1 + 0.1 * (random_gains(half) - 1)), ablate(random_direction(half), weight=0.5))
    with edit.on(half):
        hooked = logits_of(half, IDS).float()
    other = logits_of(fold(half, edit), IDS).float()
    plain = logits_of(half, IDS).float()
    bound = {torch.bfloat16: 0.25, torch.float16: 0.05}[dtype]
    assert (other - hooked).abs().mean() <= bound * (hooked - plain).abs().mean()


def test_half_precision_checkpoints_keep_their_precision(llama, tmp_path):
    half = copied(llama)
    half.model.to(torch.bfloat16)
    other = fold(half, both_of(half))
    other.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").eval()
    assert plain.dtype == torch.bfloat16
    assert torch.equal(logits_of(LanguageModel(plain, llama.tokenizer), IDS), logits_of(other, IDS))


# The caller's model


def parameters_of(lm):
    return {name: id(parameter) for name, parameter in lm.model.named_parameters(remove_duplicate=False)}


@pytest.mark.parametrize("kind", EDITS)
def test_the_callers_model_never_changes(lm, kind):
    before, objects = bits(lm.model), parameters_of(lm)
    other = fold(lm, EDITS[kind](lm))
    assert bits(lm.model) == before
    assert parameters_of(lm) == objects
    assert not set(parameters_of(other).values()) & set(objects.values())
    other.model.get_input_embeddings().weight.data.zero_()
    assert bits(lm.model) == before


def test_folded_restores_the_same_parameters_to_the_bit(lm):
    before, objects = bits(lm.model), parameters_of(lm)
    plain = logits_of(lm, IDS)
    with folded(lm, both_of(lm)):
        assert bits(lm.model) != before
    assert bits(lm.model) == before
    assert parameters_of(lm) == objects
    assert torch.equal(logits_of(lm, IDS), plain)


def test_folded_restores_after_an_exception(lm):
    before, objects = bits(lm.model), parameters_of(lm)
    with pytest.raises(ZeroDivisionError), folded(lm, both_of(lm)):
        _ = 1 / 0
    assert bits(lm.model) == before
    assert parameters_of(lm) == objects


def test_folded_contexts_nest(llama):
    first, second = Gains(random_gains(llama, 1)), both_of(llama)
    objects = parameters_of(llama)
    with Edit.of(first, second).on(llama):
        hooked = logits_of(llama, IDS)
    with folded(llama, first):
        middle = parameters_of(llama)
        with folded(llama, second):
            assert_close(logits_of(llama, IDS), hooked, tolerance=5e-5)  # the weights are rounded twice
        assert parameters_of(llama) == middle
    assert parameters_of(llama) == objects


@pytest.mark.parametrize("family", ["llama", "qwen3_moe"])
def test_weights_out_of_the_range_of_their_type_are_refused(family):
    """As in a checkpoint; a search measures them, and finds an infinite cost."""
    lm = families.tiny(family, dtype=torch.float16)
    edit, before = Edit(Gains(torch.full((lm.n_blocks, lm.d_mlp), 1e6))), bits(lm.model)
    told = (
        r"^the edit takes model.layers.0.mlp.\w+.\w+ out of the range of float16; use a weaker edit, or load the model"
    )
    for fails in (lambda: fold(lm, edit), lambda: fold_(lm, edit), lambda: folded(lm, edit).__enter__()):
        with pytest.raises(DposcopeError, match=told):
            fails()
    assert bits(lm.model) == before
    with in_effect(lm, edit):
        assert family == "qwen3_moe" or not logits_of(lm, IDS).isfinite().all()
    assert bits(lm.model) == before


def test_order_and_gradient_flags_of_parameters_stay(llama):
    lm = copied(llama)
    lm.mlp_outs[1].weight.requires_grad_(False)
    flags = [(name, p.requires_grad) for name, p in lm.model.named_parameters()]
    assert [(name, p.requires_grad) for name, p in fold(lm, both_of(lm)).model.named_parameters()] == flags
    with folded(lm, both_of(lm)):
        assert [(name, p.requires_grad) for name, p in lm.model.named_parameters()] == flags
    assert [(name, p.requires_grad) for name, p in lm.model.named_parameters()] == flags


@pytest.mark.parametrize("family", ["gpt2", "smollm", "gemma2", "qwen3"])
def test_tied_embeddings_stay_tied_and_untouched(family_lm, family, tmp_path):
    lm = family_lm(family)
    other = fold(lm, both_of(lm))
    tied = other.model.get_input_embeddings().weight
    assert tied is other.model.get_output_embeddings().weight
    assert tied is not lm.model.get_input_embeddings().weight
    assert torch.equal(tied, lm.model.get_input_embeddings().weight)
    other.save_pretrained(tmp_path)
    plain = loaded_plainly(tmp_path)
    assert plain.get_input_embeddings().weight is plain.get_output_embeddings().weight


def shared_between_blocks(lm):
    """The same weight object, and for GPT-2 the same bias, in the output projections of blocks 0 and 1."""
    lm = copied(lm)
    for projections in (lm.mlp_outs, lm.attention_outs):
        projections[1].weight = projections[0].weight
    return lm


@pytest.mark.parametrize("kind", EDITS)
def test_a_weight_that_two_blocks_share_is_edited_for_each(lm, kind):
    shared = shared_between_blocks(lm)
    before, objects = bits(shared.model), parameters_of(shared)
    edit = EDITS[kind](shared)
    with edit.on(shared):
        hooked = logits_of(shared, IDS)
    assert_close(logits_of(fold(shared, edit), IDS), hooked)
    assert bits(shared.model) == before
    assert parameters_of(shared) == objects
    with folded(shared, edit):
        assert_close(logits_of(shared, IDS), hooked)
    assert shared.mlp_outs[1].weight is shared.mlp_outs[0].weight


def test_an_edit_of_one_block_leaves_the_sharing_block_alone(llama):
    shared = shared_between_blocks(llama)
    values = torch.ones(shared.n_blocks, shared.d_mlp)
    values[1] = 0.5
    with Gains(values).on(shared):
        hooked = logits_of(shared, IDS)
    other = fold(shared, Gains(values))
    assert_close(logits_of(other, IDS), hooked)
    assert torch.equal(other.mlp_outs[0].weight, shared.mlp_outs[0].weight)


def test_storage_shared_as_views_is_not_written_into(llama):
    """Two parameters that are views of one tensor, as some loaders make them."""
    lm = copied(llama)
    storage = torch.stack([lm.mlp_outs[0].weight.detach(), lm.mlp_outs[1].weight.detach()])
    for block in (0, 1):
        lm.mlp_outs[block].weight = torch.nn.Parameter(storage[block])
    kept = storage.clone()
    fold(lm, both_of(lm))
    with folded(lm, both_of(lm)):
        pass
    fold_(lm, both_of(lm))
    assert torch.equal(storage, kept)


def test_blocks_that_share_a_module_are_refused(llama):
    lm = copied(llama)
    lm.model.model.layers[1].mlp.down_proj = lm.model.model.layers[0].mlp.down_proj
    before = bits(lm.model)
    for action in (fold, fold_):
        with pytest.raises(DposcopeError, match="share one output projection"):
            action(lm, gains_of(llama))
    with pytest.raises(DposcopeError, match="share one output projection"), folded(lm, gains_of(llama)):
        pytest.fail("entered")
    assert bits(lm.model) == before


def test_a_module_shared_with_a_block_that_is_not_edited_is_refused_too(llama):
    """Editing block 1 through a module that block 0 uses as well would edit block 0 in silence."""
    lm = copied(llama)
    lm.model.model.layers[1].mlp.down_proj = lm.model.model.layers[0].mlp.down_proj
    values = torch.ones(llama.n_blocks, llama.d_mlp)
    values[1] = 0.5
    with pytest.raises(DposcopeError, match="share one output projection"):
        fold(lm, Gains(values))


def test_fold_in_place_changes_the_model_given(llama):
    lm = copied(llama)
    edit = both_of(lm)
    with edit.on(lm):
        hooked = logits_of(lm, IDS)
    assert fold_(lm, edit) is None
    assert_close(logits_of(lm, IDS), hooked)


def test_an_edit_that_does_not_fit_changes_nothing(llama):
    lm = copied(llama)
    before, objects = bits(lm.model), parameters_of(lm)
    good = Gains(random_gains(lm))
    for bad in (Gains(torch.ones(2, 24)), ablate(torch.ones(5)), Edit.of(good, ablate(torch.ones(16), blocks=(7,)))):
        for action in (fold, fold_):
            with pytest.raises(DposcopeError):
                action(lm, bad)
    assert bits(lm.model) == before
    assert parameters_of(lm) == objects


def test_nothing_to_fold_is_the_same_model(lm):
    for nothing in (Edit(), Gains.ones(lm.n_blocks, lm.d_mlp), ablate(random_direction(lm), weight=0.0)):
        assert bits(fold(lm, nothing).model) == bits(lm.model)


def test_offloaded_weights_are_refused(llama):
    meta = replace(llama, model=copy.deepcopy(llama.model).to("meta"))
    with pytest.raises(DposcopeError, match="offloaded and cannot be folded"):
        fold_(meta, gains_of(llama))


def test_folding_while_the_hooks_are_on_gives_a_model_without_hooks(llama):
    """Else the copy would carry the edit twice, or a hook that knows nothing of its passes."""
    edit = both_of(llama)
    expected = logits_of(fold(llama, edit), IDS)
    with edit.on(llama):
        logits_of(llama, IDS)
        try:
            inside = fold(llama, edit)
        except DposcopeError:
            return  # refusing is as good
    assert hook_count(inside.model) == 0
    assert torch.equal(logits_of(inside, IDS), expected)


def test_a_folded_model_can_be_edited_again(lm):
    first, second = Gains(random_gains(lm, 1)), Edit.of(Gains(random_gains(lm, 2)), ablation_of(lm))
    with Edit.of(first, second).on(lm):
        hooked = logits_of(lm, IDS)
    half_way = fold(lm, first)
    with second.on(half_way):
        assert_close(logits_of(half_way, IDS), hooked)
    assert_close(logits_of(fold(half_way, second), IDS), hooked)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_codes_take_no_edit_and_stay_as_they_are(family, family_lm):
    lm = in_bytes(family_lm(family))
    before = bits(lm.model)
    refused = [gains_of(lm), ablation_of(lm), both_of(lm)] + ([assign_of(lm)] if family == "gpt2" else [])
    for edit in refused:
        for action in (fold, fold_):
            with pytest.raises(
                DposcopeError, match="are quantised, and an edit does not fold into codes; fold it into"
            ):
                action(lm, edit)
    assert bits(lm.model) == before


@pytest.mark.parametrize("name", ["gains", "both"])
def test_an_edit_is_in_effect_by_hooks_where_weights_are_codes_and_else_in_the_weights(name, llama):
    lm = in_bytes(llama)
    edit = Edit.of(gains_of(lm)) if name == "gains" else both_of(lm)
    plain, before = by_hand(lm), logits_of(lm, IDS)
    with in_effect(lm, edit), in_effect(plain, edit):
        assert (hook_count(lm.model) > 0, hook_count(plain.model)) == (True, 0)
        assert_close(logits_of(lm, IDS), logits_of(plain, IDS))
        assert not torch.allclose(logits_of(lm, IDS), before, atol=1e-2)
    assert torch.equal(logits_of(lm, IDS), before)


def test_what_is_folded_in_a_callers_inference_mode_is_a_model_as_any(llama):
    edit = Edit.of(gains_of(llama), ablation_of(llama))
    expected = fold(llama, edit)
    with torch.inference_mode():
        found = fold(llama, edit)
        with folded(llama, edit) as inside:
            assert inside.fingerprint == expected.fingerprint
    assert found.fingerprint == expected.fingerprint
    found.model(torch.tensor([IDS])).logits.sum().backward()
    assert all(weight.grad is not None for weight in found.model.parameters())
