"""The argument that takes a cache has one of two names, and may be given by position."""

import copy

import pytest
import torch
from transformers import LlamaForCausalLM, LlamaModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from dposcope.interventions.gains import Gains
from dposcope.model.cache import cache_argument, given_cache, named_arguments
from dposcope.model.frames import Positions
from dposcope.model.generate import generate
from helpers.families import TEXTS, random_gains, tiny


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
