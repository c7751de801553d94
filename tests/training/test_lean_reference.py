"""A reference without most of its embedding: the same numbers, to the bit, from less."""

import pytest
import torch
from transformers import Llama4TextConfig

from dposcope.errors import DposcopeError
from dposcope.model.language_model import LanguageModel
from dposcope.training.lean_reference import Reads, lean_reference
from dposcope.training.trainable import all_weights
from helpers.families import VOCABULARY, bits, bos_tokenizer, build, copied, tiny
from helpers.policies import OBJECTIVES, VARIANTS, disturb, material, packed, variant_lm

autocast = {False: torch.autocast("cpu", enabled=False), True: torch.autocast("cpu", torch.bfloat16)}


def reads(lm, examples, *, half=False) -> Reads:
    return Reads.of(examples, pad_id=lm.pad_id, products=torch.bfloat16 if half else None)


def test_what_is_read_is_every_id_and_the_padding():
    examples = material(3, 2)
    expected = {5}
    for example in examples:
        for ids in (example.prompt, *example.completions):
            expected |= set(ids)
    assert Reads.of(examples, pad_id=5).ids == expected


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_rewards_and_kl_start_at_exactly_zero(variant, half, name):
    lm = variant_lm(variant, torch.float32)
    examples = material(3, 2 * (name == "neutral"))
    with (
        all_weights(lm, OBJECTIVES[name], in_place=True, reads=reads(lm, examples, half=half)) as trainable,
        autocast[half],
        torch.no_grad(),
    ):
        found = trainable.policy(packed(lm, examples), 2 * (name == "neutral"))
    assert not found.terms.preferred_rewards.any()
    assert not found.terms.dispreferred_rewards.any()
    assert found.penalty == 0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("name", ["pairs", "neutral"])
def test_loss_and_gradients_are_those_beside_a_whole_copy(variant, half, name):
    lm, examples = variant_lm(variant, torch.float32), material(3, 2)
    twin, batch = copied(lm), packed(lm, examples)
    with (
        all_weights(lm, OBJECTIVES[name]) as whole,
        all_weights(twin, OBJECTIVES[name], in_place=True, reads=reads(lm, examples, half=half)) as lean,
    ):
        results = []
        for trainable in (whole, lean):
            disturb(trainable.policy)
            with autocast[half]:
                found = trainable.policy(batch, 2)
            found.loss.backward()
            results.append((found, {name: value.grad for name, value in trainable.policy.trainable.items()}))
    (one, slopes), (other, others) = results
    assert one.penalty > 0
    assert torch.equal(one.loss, other.loss)
    assert slopes.keys() == others.keys()
    assert all(torch.equal(slopes[name], others[name]) for name in slopes)


def test_it_is_small_and_shares_nothing(lm):
    before = bits(lm.model)
    ids = frozenset(range(10, 16))
    arm = lean_reference(lm.model, Reads(ids, torch.bfloat16))
    names = {name: value.shape for name, value in arm.model.named_parameters()}
    matrices = [shape for shape in names.values() if lm.model.config.get_text_config().vocab_size in shape]
    assert matrices == []
    assert arm.head.weight.dtype == torch.bfloat16
    owned = {value.data_ptr() for value in lm.model.parameters()}
    assert owned.isdisjoint({value.data_ptr() for value in arm.model.parameters()} | {arm.head.weight.data_ptr()})
    assert not any(value.requires_grad for value in arm.model.parameters())
    assert bits(lm.model) == before


def llama4() -> LanguageModel:
    """Its code asks for the weight of the embedding."""
    config = Llama4TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=12,
        intermediate_size_mlp=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=4,
        num_local_experts=3,
        interleave_moe_layer_step=2,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=3,
    )
    lm = LanguageModel(build(config), bos_tokenizer())
    _ = lm.layout  # as loading does: alone, the model says that its base model is named otherwise
    return lm


def test_llama_4_learns_in_place_what_it_learns_beside_a_whole_copy():
    lm, examples = llama4(), material(3, 2)
    twin, batch, losses = copied(lm), packed(lm, examples), []
    with (
        all_weights(lm, OBJECTIVES["neutral"]) as whole,
        all_weights(twin, OBJECTIVES["neutral"], in_place=True, reads=reads(lm, examples)) as lean,
        torch.no_grad(),
    ):
        for trainable in (whole, lean):
            disturb(trainable.policy)
            losses.append(trainable.policy(batch, 2))
    assert losses[0].penalty > 0
    assert torch.equal(losses[0].loss, losses[1].loss)


def test_the_kept_rows_are_not_found_by_other_numbers():
    """They stand at other places than in the embedding; what looks them up itself must fail."""
    rows = lean_reference(llama4().model, Reads(frozenset({3, 4}), torch.bfloat16)).model.get_input_embeddings()
    assert (rows.weight.dtype, rows.weight.device.type, rows.weight.shape) == (torch.float32, "cpu", (0, 16))
    with pytest.raises(RuntimeError, match="index"):
        torch.nn.functional.embedding(torch.tensor([1]), rows.weight)


def test_an_id_that_was_not_announced_is_an_error():
    lm = tiny("llama")
    arm = lean_reference(lm.model, Reads(frozenset({3, 4})))
    with torch.no_grad():
        arm.model.base_model(input_ids=torch.tensor([[3, 4]]))
        with pytest.raises(IndexError):
            arm.model.base_model(input_ids=torch.tensor([[3, 5]]))


def test_a_lower_precision_is_that_of_all_of_it(lm):
    arm = lean_reference(lm.model, Reads(frozenset({3, 4})), dtype=torch.bfloat16)
    assert {value.dtype for value in arm.model.parameters()} == {torch.bfloat16}
    assert arm.head.weight.dtype == torch.bfloat16


def test_an_embedding_that_is_no_table_is_refused(monkeypatch):
    lm = tiny("llama")
    monkeypatch.setattr(lm.model, "get_input_embeddings", lambda: torch.nn.Linear(3, 3))
    with pytest.raises(DposcopeError, match="not a table of rows"):
        lean_reference(lm.model, Reads(frozenset({3})))
