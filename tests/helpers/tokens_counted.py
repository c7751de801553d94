"""How many tokens a command really reads and writes, counted where the model is called."""

import functools
from dataclasses import dataclass
from typing import Any

import pytest
from transformers import LlamaForCausalLM, LlamaModel

from dposcope.model.cache import given_cache
from dposcope.model.language_model import LanguageModel


@dataclass
class Tokens:
    """Counted so far."""

    read: int = 0
    """Without padding, of texts and prompts."""
    written: int = 0


def count_tokens(monkeypatch: pytest.MonkeyPatch) -> Tokens:
    """Count from now on, in every Llama, however it is loaded; no text ends before its last token.

    A pass over several positions, or without a cache, reads; every pass for the logits of the last position writes one
    token for each text.
    """
    seen = Tokens()
    body, whole = LlamaModel.forward, LlamaForCausalLM.forward

    @functools.wraps(body)
    def read(self: LlamaModel, *args: Any, **kwargs: Any) -> Any:
        cache, mask = given_cache(kwargs), kwargs.get("attention_mask")
        if cache is None or cache.get_seq_length() == 0:
            assert mask is not None
            assert mask.ndim == 2
            seen.read += int(mask.sum())
        return body(self, *args, **kwargs)

    @functools.wraps(whole)
    def write(self: LlamaForCausalLM, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("logits_to_keep") == 1:
            seen.written += len(kwargs["input_ids"])
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(LlamaModel, "forward", read)
    monkeypatch.setattr(LlamaForCausalLM, "forward", write)
    monkeypatch.setattr(LanguageModel, "end_ids", frozenset())
    monkeypatch.setattr("dposcope.model.load.check_forward", lambda _lm, _name: None)
    return seen
