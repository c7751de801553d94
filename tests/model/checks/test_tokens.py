"""Tokens that were added to a tokenizer without resizing the embedding."""

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.evaluation.perplexity import window_losses
from dposcope.model.batches import batches
from dposcope.model.checks.tokens import check_ids, check_tokens
from dposcope.model.generate import generate
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load
from dposcope.pairs.harmless import HarmlessTexts
from dposcope.pairs.pairs import Pair, Pairs
from dposcope.training.batches.examples import harmless_windows, neutral_windows, tokenise
from helpers.families import bos_tokenizer, copied


def with_tokens(lm: LanguageModel, **settings) -> LanguageModel:
    tokenizer = bos_tokenizer()
    tokenizer.add_special_tokens(settings)
    return LanguageModel(copied(lm).model, tokenizer, "mine")


@pytest.fixture
def slipped(llama) -> LanguageModel:
    """Two tokens more than the embedding has rows."""
    return with_tokens(llama, additional_special_tokens=["<turn>", "<end of turn>"])


@pytest.fixture
def padded(llama) -> LanguageModel:
    """Only its padding token has no embedding."""
    return with_tokens(llama, pad_token="<mypad>")


def test_a_common_slip_is_told_on_loading(slipped, tmp_path):
    slipped.model.save_pretrained(tmp_path)
    slipped.tokenizer.save_pretrained(tmp_path)
    message = (
        r"the tokenizer of .* makes 2 tokens beyond the 96 rows of its embedding, such as '<end of turn>'; call "
        r"model\.resize_token_embeddings\(98\) and save it again, or give it"
    )
    with pytest.raises(DposcopeError, match=message):
        load(tmp_path)
    slipped.model.resize_token_embeddings(98)
    slipped.model.save_pretrained(tmp_path)
    assert generate(load(tmp_path), ["the river <turn>"])


def test_padding_may_be_without(lm, padded):
    check_tokens(lm, "m")
    check_tokens(padded, "m")
    assert generate(padded, ["the river", "kind"])


READERS = {
    "generation": lambda lm: generate(lm, ["the river <mypad> is long"]),
    "windows": lambda lm: window_losses(lm, "the river <mypad> is long " * 200),
    "pairs": lambda lm: tokenise(
        lm, Pairs.of([Pair("the river", " is <mypad>", " was")]), max_prompt_tokens=9, max_completion_tokens=9
    ),
    "neutral windows": lambda lm: neutral_windows(lm, "the river <mypad> " * 99, count=2, length=8),
    "harmless windows": lambda lm: harmless_windows(lm, HarmlessTexts(("the <mypad>",), (" river",))),
}


@pytest.mark.parametrize("name", READERS)
def test_a_text_that_holds_one_is_refused_by_its_name(padded, name):
    with pytest.raises(
        DposcopeError, match=r"a text holds the token '<mypad>' \(number 96\), for which mine has no emb"
    ):
        READERS[name](padded)


def test_a_begin_of_text_token_without_an_embedding_is_refused_before_it_is_read(llama):
    lm = with_tokens(llama, bos_token="<mybos>")
    for read in (
        lambda: window_losses(lm, "the river is long " * 200),
        lambda: neutral_windows(lm, "the river " * 99, count=2, length=8),
    ):
        with pytest.raises(DposcopeError, match=r"a text holds the token '<mybos>' \(number 96\)"):
            read()


@pytest.mark.parametrize("token", [-1, 96, 10**30])
def test_ids_of_a_file_are_checked_too(llama, token):
    check_ids(llama, [0, 95])
    with pytest.raises(DposcopeError, match=rf"the token '\?' \(number {token:,}\)"):
        next(batches(llama, [[1, 2], [3, token]], batch_size=2, side="left"))


def test_an_end_of_text_token_that_is_no_number_is_told(llama):
    strange = copied(llama)
    strange.model.generation_config.eos_token_id = ["x"]
    with pytest.raises(DposcopeError, match=r"m has an end-of-text token \(eos_token_id\) that is no number; download"):
        check_tokens(strange, "m")
    assert torch.is_tensor(strange.model.get_input_embeddings().weight)
