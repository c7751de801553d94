"""The argument that takes a cache has one of two names, and may be given by position."""

import copy

import pytest
import torch
from transformers import LlamaForCausalLM, LlamaModel, MiniMaxConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from dposcope.errors import DposcopeError
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.model.cache import cache_argument, check_keys_and_values, given_cache, named_arguments, takes_cache
from dposcope.model.frames import Positions
from dposcope.model.generate import generate
from dposcope.model.language_model import LanguageModel
from helpers.families import TEXTS, assert_close, bos_tokenizer, build, logits_of, random_gains, tiny
from helpers.more_families import MORE


class BaseWithPast(LlamaModel):
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, **others):
        given = {cache_argument(tiny("llama").model.base_model): past_key_values}
        return super().forward(input_ids, attention_mask, position_ids, **given, **others)


class BaseWithCache(LlamaModel):
    def forward(self, input_ids=None, attention_mask=None, position_ids=None, cache=None, **others):
        given = {cache_argument(tiny("llama").model.base_model): cache}
        return super().forward(input_ids, attention_mask, position_ids, **given, **others)


def last_logits(model, read, keep: int) -> CausalLMOutputWithPast:
    return CausalLMOutputWithPast(logits=model.lm_head(read.last_hidden_state[:, -keep if keep else 0 :]))


class WholeWithPast(LlamaForCausalLM):
    def forward(self, input_ids=None, attention_mask=None, past_key_values=None, logits_to_keep=0, **others):
        read = self.model(input_ids, attention_mask, past_key_values=past_key_values, **others)
        return last_logits(self, read, logits_to_keep)


class WholeWithCache(LlamaForCausalLM):
    def forward(self, input_ids=None, attention_mask=None, cache=None, logits_to_keep=0, **others):
        return last_logits(self, self.model(input_ids, attention_mask, cache=cache, **others), logits_to_keep)


KINDS = {"past_key_values": (WholeWithPast, BaseWithPast), "cache": (WholeWithCache, BaseWithCache)}


def named(name: str):
    """The tiny Llama whose cache is the argument `name`, of both its modules."""
    lm = copy.deepcopy(tiny("llama"))
    base = lm.model.base_model
    lm.model.__class__, base.__class__ = KINDS[name]
    return lm


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("positions", [Positions.GENERATED, Positions.LAST, Positions.PROMPT])
def test_either_name_of_the_cache_gives_the_same_text(name, positions):
    lm, plain = named(name), tiny("llama")
    assert cache_argument(lm.model) == cache_argument(lm.model.base_model) == name
    values = random_gains(plain)
    texts = []
    for one in (lm, plain):
        for use_cache in (True, False):
            with Gains(values, positions=positions).on(one):
                texts.append([text.ids for text in generate(one, TEXTS[:3], new_tokens=6, use_cache=use_cache)])
    assert texts == [texts[0]] * 4


def test_the_old_name_is_seen_where_a_model_takes_both():
    cache = object()
    assert given_cache({"past_key_values": cache}) is cache
    assert given_cache({"cache": cache, "past_key_values": None}) is cache
    assert given_cache({"past_key_values": None}) is None


def test_arguments_by_position_have_their_names():
    lm = tiny("llama")
    ids = torch.ones(1, 3, dtype=torch.long)
    found = named_arguments(lm.model, (ids, ids), {"use_cache": False})
    assert found.keys() == {"input_ids", "attention_mask", "use_cache"}
    mask = torch.tensor([[0, 1, 1]])
    with torch.no_grad(), Gains(random_gains(lm), positions=Positions.FIRST).on(lm):
        by_name = lm.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        by_position = lm.model(ids, mask, use_cache=False).logits
    assert torch.equal(by_name, by_position)


def test_a_forward_that_is_replaced_is_looked_at_anew():
    """accelerate puts a function in its place, on the module itself."""
    lm = named("cache")
    assert cache_argument(lm.model) == "cache"

    def forward(input_ids=None, past_key_values=None):
        raise NotImplementedError

    lm.model.forward = forward
    assert cache_argument(lm.model) == "past_key_values"
    assert named_arguments(lm.model, (1, 2), {}) == {"input_ids": 1, "past_key_values": 2}
    del lm.model.forward
    assert cache_argument(lm.model) == "cache"


def minimax(kinds: list[str]):
    """MiniMax-Text has linear attention first, and keys in later blocks."""
    config = MiniMaxConfig(
        **{"vocab_size": 96, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 3},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128},
        **{"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 3, "num_local_experts": 4, "num_experts_per_tok": 2},
        **{"layer_types": kinds, "block_size": 4},
    )
    return LanguageModel(build(config), bos_tokenizer())


@pytest.mark.parametrize("first", ["linear_attention", "full_attention"])
def test_minimax_keeps_a_cache_of_its_own_class_that_counts_the_tokens_of_later_blocks(first):
    """Prompts of unequal length, so that rows are padded; each text against whole passes over it alone."""
    lm = minimax([first, "full_attention", "linear_attention"])
    gains = Gains(random_gains(lm))
    with gains.on(lm):
        written = generate(lm, TEXTS[:5], new_tokens=5, stop_at_end=False)
        for one in written:
            ids = list(one.prompt_ids)
            for _ in range(5):
                ids.append(int(logits_of(lm, ids)[-1].argmax()))
            assert ids[len(one.prompt_ids) :] == one.ids
        changed = logits_of(lm, ids)
    assert len({tuple(one.ids) for one in written}) == 5
    assert_close(logits_of(fold(lm, gains), ids), changed, 2e-5)
    with pytest.raises(DposcopeError, match="holds more than keys and values"):
        check_keys_and_values(lm.model)


def test_a_model_of_any_arguments_takes_a_cache():
    class Any(torch.nn.Module):
        def forward(self, *args, **options): ...

    class Without(torch.nn.Module):
        def forward(self, input_ids, **options): ...

    assert takes_cache(Any())
    assert not takes_cache(Without())
    assert not takes_cache(MORE["openai-gpt"].build().model)
    assert takes_cache(tiny("llama").model)
