"""A tuned model beside its base: sizes, tokenizers, and embeddings of other lengths."""

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.evaluation.perplexity import window_losses
from dposcope.interventions.weights import OtherWeights
from dposcope.model.generate import generate
from dposcope.model.language_model import LanguageModel
from dposcope.model.load import load
from dposcope.model.tuned import check_models
from dposcope.neurons.activations import collect_means
from dposcope.neurons.contributions import contributions
from helpers.families import FAMILIES, TEXTS, VOCABULARY, bits, bos_tokenizer, copied, random_direction, tiny

CHAT = ["<user>", "<turn>"]


def rows(lm: LanguageModel) -> int:
    return lm.model.get_input_embeddings().weight.shape[0]


@torch.no_grad()
def resized(lm: LanguageModel, to: int, *, loud: bool = False, tokenizer=None) -> LanguageModel:
    """A copy with so many tokens; `loud`: its last one is written everywhere, wherever the vocabulary ends."""
    other = copied(lm)
    other.model.resize_token_embeddings(to, mean_resizing=False)
    other.model.lm_head.weight[VOCABULARY:] = lm.model.lm_head.weight[7] * (3 if loud else 0)
    return LanguageModel(other.model, tokenizer or lm.tokenizer, "wide")


def chat_tokenizer(**settings):
    tokenizer = bos_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": CHAT, **settings})
    return tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_beyond_the_vocabulary_are_cut(family, tmp_path):
    """Rounded up by a training framework: the same model as without those rows, to the bit."""
    tiny(family).save_pretrained(tmp_path / "base")
    base = load(tmp_path / "base")  # as transformers reads it, a tokenizer may know a token without an embedding
    resized(base, 128, loud=True).save_pretrained(tmp_path)
    again = load(tmp_path, base=base)
    assert rows(again) == again.model.config.get_text_config().vocab_size == VOCABULARY
    assert bits(again.model) == bits(base.model)
    assert again.fingerprint == base.fingerprint
    assert again.notes == ("32 rows of its embedding that stand for no token left out",)
    assert (again.tokenizer, again.writer) == (base.tokenizer, None)


def test_uncut_they_would_be_written(llama, tmp_path):
    """So the test above does test something: the rows are loud."""
    wide = resized(llama, 128, loud=True)
    assert any(token >= VOCABULARY for text in generate(wide, TEXTS) for token in text.ids)
    wide.save_pretrained(tmp_path)
    with OtherWeights(tmp_path).on(llama):
        assert all(token < VOCABULARY for text in generate(llama, TEXTS) for token in text.ids)


def test_a_base_may_be_rounded_up_where_the_tuned_model_is_not(llama, tmp_path):
    llama.save_pretrained(tmp_path)
    again = load(tmp_path, base=resized(llama, 128))
    assert (rows(again), again.notes) == (VOCABULARY, ())


def test_added_tokens_are_written_and_spelt_but_never_read(llama, tmp_path):
    """A word of its own, no special token: the base's tokenizer could not spell it."""
    tokenizer = bos_tokenizer()
    tokenizer.add_tokens(["river"])
    resized(llama, 97, loud=True, tokenizer=tokenizer).save_pretrained(tmp_path)
    tuned = load(tmp_path, base=llama)
    assert rows(tuned) == 97
    assert tuned.notes[0].startswith("1 token that tiny-llama lacks: both models read by the base's tokenizer")
    written, plain = generate(tuned, TEXTS), generate(llama, TEXTS)
    assert [text.prompt_ids for text in written] == [text.prompt_ids for text in plain]
    assert any(96 in text.ids and "river" in text.text for text in written)
    assert all(text.text == tokenizer.decode(text.ids, skip_special_tokens=True) for text in written)
    assert window_losses(tuned, " ".join(TEXTS), window=32).tokens.tolist() == (
        window_losses(llama, " ".join(TEXTS), window=32).tokens.tolist()
    )
    means = [collect_means(lm, TEXTS, new_tokens=4) for lm in (llama, tuned)]
    assert contributions(llama, tuned, *means, random_direction(llama)).about["tokens_after"] == means[1].count
    with pytest.raises(DposcopeError, match=r"cannot stand in the place of tiny-llama .*run it beside its base"):
        OtherWeights(tmp_path).on(llama).__enter__()


def test_a_chats_end_of_turn_ends_texts(llama, tmp_path):
    tokenizer = chat_tokenizer()
    tuned = resized(llama, 104, loud=True, tokenizer=tokenizer)
    tuned.model.generation_config.eos_token_id = [1, tokenizer.convert_tokens_to_ids("<turn>")]
    tuned.save_pretrained(tmp_path)
    again = load(tmp_path, base=llama)
    assert (rows(again), again.end_ids) == (98, {1, 97})
    assert again.special_ids == llama.special_ids | {96, 97}
    assert [note.split(" ")[0] for note in again.notes] == ["6", "2"]
    assert not any(97 in text.ids for text in generate(again, TEXTS))


def test_inside_another_models_weights_its_texts_end_as_its_own(llama, tmp_path):
    other = copied(llama)
    third = {text.ids[2] for text in generate(llama, TEXTS) if len(text.ids) > 2}
    other.model.generation_config.eos_token_id = sorted(llama.end_ids | third)
    other.save_pretrained(tmp_path)
    ends = llama.end_ids
    with OtherWeights(tmp_path).on(llama):
        inside = generate(llama, TEXTS)
    assert [text.ids for text in inside] == [text.ids for text in generate(load(tmp_path), TEXTS)]
    assert max(len(text.ids) for text in inside) <= 2
    assert llama.end_ids == ends


def test_reserved_tokens_may_get_names(llama, tmp_path):
    vocabulary = llama.tokenizer.get_vocab()
    text = llama.tokenizer.backend_tokenizer.to_str().replace('"<unk>"', '"<user>"')
    tokenizer = type(llama.tokenizer)(tokenizer_object=type(llama.tokenizer.backend_tokenizer).from_str(text))
    assert set(vocabulary) ^ set(tokenizer.get_vocab()) == {"<unk>", "<user>"}
    tuned = LanguageModel(copied(llama).model, tokenizer, "renamed")
    tuned.save_pretrained(tmp_path)
    again = load(tmp_path, base=llama)
    assert again.notes == ("1 token under another name than in tiny-llama",)
    assert again.decode([[0]]) == again.writer.batch_decode([[0]], skip_special_tokens=True)


# What is refused


@pytest.mark.parametrize(
    ("family", "words"),
    [("qwen2", "architecture"), ("gpt2", "architecture"), ("smollm", "number of blocks")],
)
def test_other_architectures_and_sizes(llama, tmp_path, family, words):
    tiny(family).save_pretrained(tmp_path)
    with pytest.raises(DposcopeError, match=f"differ in {words} .*; give a base model and one that was tuned from it"):
        load(tmp_path, base=llama)


def test_another_tokenizer(llama, gpt2, tmp_path):
    LanguageModel(copied(llama).model, gpt2.tokenizer, "other").save_pretrained(tmp_path)
    with pytest.raises(DposcopeError, match=r"has another tokenizer than tiny-llama \(\d+ tokens of 96 differ\)"):
        load(tmp_path, base=llama)
    with pytest.raises(DposcopeError, match="has another tokenizer"):
        check_models(llama, LanguageModel(llama.model, gpt2.tokenizer, "other"))


def test_a_vocabulary_cut_short(llama, tmp_path):
    short = copied(llama)
    short.model.resize_token_embeddings(90)
    short.save_pretrained(tmp_path)
    with pytest.raises(DposcopeError, match="has 90 tokens, and the tokenizer of tiny-llama makes 96; give a model"):
        load(tmp_path, base=llama)
