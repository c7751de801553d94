"""Token contrast against rows of the embedding picked by hand."""

from dataclasses import replace

import pytest
import torch

from dposcope.directions.tokens import token_contrast
from dposcope.errors import DposcopeError
from dposcope.model.layout import table
from helpers.families import assert_close, bos_tokenizer, copied
from helpers.more_families import MORE

TOXIC = ["idiot", "stupid", "fool"]
KIND = ["river", "kind", "day"]


def naive(table: torch.Tensor, pieces: list[list[int]]) -> torch.Tensor:
    """Each seed its pieces' mean, all seeds of equal weight."""
    total = torch.zeros(table.shape[1], dtype=torch.float64)
    for ids in pieces:
        seed = torch.zeros_like(total)
        for token in ids:
            seed += table[token].detach().double() / len(ids)
        total += seed / len(pieces)
    return total


def pieces(lm, seeds: list[str]) -> list[list[int]]:
    """Ids by the tokenizer's own pieces, so without whatever it adds in front."""
    return [lm.tokenizer.convert_tokens_to_ids(lm.tokenizer.tokenize(seed)) for seed in seeds]


def input_table(lm) -> torch.Tensor:
    return (
        lm.model.transformer.wte.weight if lm.model.config.model_type == "gpt2" else lm.model.model.embed_tokens.weight
    )


def test_the_seeds_have_one_and_several_pieces(lm):
    assert {len(ids) for ids in pieces(lm, [*TOXIC, *KIND])} >= {1, 2, 3}


def test_input_rows_are_averaged_over_pieces_then_over_seeds(lm):
    direction = token_contrast(lm, TOXIC, KIND)
    expected = naive(input_table(lm), pieces(lm, TOXIC)) - naive(input_table(lm), pieces(lm, KIND))
    assert_close(direction.vector, expected, 1e-12)
    assert (direction.kind, direction.block) == ("token_contrast", -1)


def test_output_rows_are_the_unembeddings(lm):
    direction = token_contrast(lm, TOXIC, KIND, matrix="output")
    table = lm.model.lm_head.weight
    assert_close(direction.vector, naive(table, pieces(lm, TOXIC)) - naive(table, pieces(lm, KIND)), 1e-12)
    tied = lm.model.config.tie_word_embeddings
    assert torch.equal(direction.vector, token_contrast(lm, TOXIC, KIND).vector) == tied


def test_rows_of_an_unembedding_that_reads_no_residual_stream_are_refused():
    """ModernBERT has layers before it."""
    lm = MORE["modernbert-decoder"].build()
    assert token_contrast(lm, TOXIC, KIND).vector.shape == (16,)
    with pytest.raises(DposcopeError, match=r"reads no residual stream, but what layers .*\(matrix='input', which is"):
        token_contrast(lm, TOXIC, KIND, matrix="output")


def test_both_kinds_of_model_are_there(family_lm):
    assert not family_lm("llama").model.config.tie_word_embeddings
    assert family_lm("gemma2").model.config.tie_word_embeddings


def test_the_beginning_of_text_never_counts(llama):
    """This tokenizer adds it to every text, and its row must not shift the direction."""
    assert llama.tokenizer("idiot")["input_ids"][0] == llama.tokenizer.bos_token_id
    own = copied(llama)
    before = token_contrast(own, TOXIC, KIND[:2])
    with torch.no_grad():
        own.model.model.embed_tokens.weight[llama.tokenizer.bos_token_id] += 100
    assert torch.equal(token_contrast(own, TOXIC, KIND[:2]).vector, before.vector)


def test_a_leading_space_gives_other_tokens(lm):
    direction = token_contrast(lm, TOXIC, KIND, leading_space=True)
    spaced = [[f" {seed}" for seed in seeds] for seeds in (TOXIC, KIND)]
    table = input_table(lm)
    assert pieces(lm, spaced[0]) != pieces(lm, TOXIC)
    assert_close(direction.vector, naive(table, pieces(lm, spaced[0])) - naive(table, pieces(lm, spaced[1])), 1e-12)


def test_what_it_was_made_from_is_written_down(llama):
    about = token_contrast(llama, TOXIC, KIND[:2], matrix="output", leading_space=True).about
    assert about == {
        "model": "tiny-llama",
        "fingerprint": llama.fingerprint,
        "matrix": "output",
        "leading_space": True,
        "seeds_with": 3,
        "seeds_without": 2,
    }


def test_half_precision_rows_are_averaged_in_float64(llama):
    own = copied(llama)
    own.model.to(torch.bfloat16)
    table = input_table(own)
    expected = naive(table, pieces(own, TOXIC)) - naive(table, pieces(own, KIND))
    assert_close(token_contrast(own, TOXIC, KIND).vector, expected, 1e-12)


def test_gemma_embeddings_are_rows_as_stored_not_as_scaled(family_lm):
    """Gemma multiplies by √d when it embeds; the contrast takes the matrix."""
    lm = family_lm("gemma3")
    row = lm.model.model.embed_tokens.weight[pieces(lm, ["idiot"])[0][0]].detach().double()
    other = lm.model.model.embed_tokens.weight[pieces(lm, ["."])[0][0]].detach().double()
    assert_close(token_contrast(lm, ["idiot"], ["."]).vector, row - other, 1e-12)


@pytest.mark.parametrize(("toxic", "kind"), [([], KIND), (TOXIC, []), ([], [])])
def test_a_side_without_seeds_is_refused(llama, toxic, kind):
    with pytest.raises(DposcopeError, match="needs at least one seed word on each side"):
        token_contrast(llama, toxic, kind)


@pytest.mark.parametrize("side", ["toxic", "kind"])
def test_a_seed_without_a_token_is_named(llama, side):
    seeds = {"toxic": list(TOXIC), "kind": list(KIND)}
    seeds[side].append("")
    with pytest.raises(DposcopeError, match="seed word '' gives no token"):
        token_contrast(llama, seeds["toxic"], seeds["kind"])


def test_the_same_seeds_on_both_sides_are_refused(llama):
    with pytest.raises(DposcopeError, match="norm zero"):
        token_contrast(llama, TOXIC, TOXIC)


def test_the_tokenizer_is_left_as_it_was(llama):
    before = bos_tokenizer().backend_tokenizer.to_str()
    token_contrast(llama, TOXIC, KIND, leading_space=True)
    assert llama.tokenizer.backend_tokenizer.to_str() == before


def test_the_unembedding_is_that_of_the_layout(llama, monkeypatch):
    expected = token_contrast(llama, TOXIC, KIND, matrix="output").vector
    monkeypatch.setitem(table._LAYOUTS, "llama", replace(llama.layout, unembedding="lm_head"))
    monkeypatch.setattr(type(llama.model), "get_output_embeddings", lambda _: None)
    assert torch.equal(token_contrast(llama, TOXIC, KIND, matrix="output").vector, expected)
