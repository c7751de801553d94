"""Averaged residual streams: each text by itself, unpadded, through a hook of the test's own."""

import pytest
import torch

from dposcope.directions.features import Features, residual_features
from dposcope.errors import DposcopeError
from helpers.families import CIVIL, FAMILIES, RUDE, TEXTS, WITHOUT_BOS, assert_close, copied, trace
from helpers.naive_features import naive_reference, naive_strict, token_ids

LONG = " ".join(TEXTS * 3)


def final_norm(lm):
    return lm.model.transformer.ln_f if lm.model.config.model_type == "gpt2" else lm.model.model.norm


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_strict_features_are_those_of_each_text_alone(lm, batch_size):
    for block in range(-lm.n_blocks, lm.n_blocks):
        features = residual_features(lm, TEXTS, block=block, batch_size=batch_size)
        rows = [naive_strict(lm, text, block) for text in TEXTS]
        assert features.vectors.dtype == torch.float64
        assert_close(features.vectors, torch.stack([part.mean(0) for part in rows]), 2e-6)
        norm = torch.cat(rows).norm(dim=1).mean().item()
        assert features.residual_norm == pytest.approx(norm, rel=1e-5)


def test_strict_reads_before_the_final_norm(lm):
    text = TEXTS[0]
    after = final_norm(lm)(naive_strict(lm, text, -1).float()).detach().double().mean(0)
    vector = residual_features(lm, [text]).vectors[0]
    assert not torch.allclose(vector, after, rtol=0.05)


def test_special_tokens_do_not_count(family_lm):
    for family in FAMILIES:
        lm = family_lm(family)
        ids = token_ids(lm, TEXTS[0])
        stream = trace(lm, ids).stream[-1].double()
        all_of_them = stream.mean(0)
        vector = residual_features(lm, [TEXTS[0]]).vectors[0]
        assert torch.allclose(vector, all_of_them, atol=1e-4) == (family in WITHOUT_BOS), family


def test_a_special_token_inside_a_text_does_not_count(llama):
    text = "kind words<eos>cost nothing"
    ids = token_ids(llama, text)
    assert 1 in ids
    rows = naive_strict(llama, text, -1)
    assert len(rows) == len(ids) - 2
    assert_close(residual_features(llama, [text]).vectors[0], rows.mean(0))


def test_long_texts_are_cut_to_their_first_128_tokens(lm):
    assert len(lm.tokenizer(LONG)["input_ids"]) > 150
    features = residual_features(lm, [LONG, TEXTS[0]])
    assert_close(features.vectors[0], naive_strict(lm, LONG, -1, 128).mean(0))
    assert_close(features.vectors[1], naive_strict(lm, TEXTS[0], -1).mean(0))
    short = residual_features(lm, [LONG], max_tokens=9)
    assert_close(short.vectors[0], naive_strict(lm, LONG, -1, 9).mean(0))


def test_reference_features_count_padding_and_bos_after_the_final_norm(lm):
    texts = [*TEXTS, LONG]
    features = residual_features(lm, texts, protocol="reference", batch_size=4)
    rows = [naive_reference(lm, text) for text in texts]
    assert_close(features.vectors, torch.stack([part.mean(0) for part in rows]), 2e-5)
    assert features.residual_norm == pytest.approx(torch.cat(rows).norm(dim=1).mean().item(), rel=1e-4)
    strict = residual_features(lm, texts)
    assert not torch.allclose(strict.vectors, features.vectors, rtol=0.05)


def test_reference_features_do_not_depend_on_the_batch(lm):
    together = residual_features(lm, TEXTS, protocol="reference", batch_size=32)
    alone = residual_features(lm, TEXTS, protocol="reference", batch_size=1)
    assert_close(together.vectors, alone.vectors)


@pytest.mark.parametrize("block", [0, 1])
def test_blocks_after_the_wanted_one_are_not_run(lm, block):
    own = copied(lm)
    calls = [0] * own.n_blocks

    def count(index):
        def look(*_args):
            calls[index] += 1

        return look

    for index, module in enumerate(own.mlp_outs):
        module.register_forward_hook(count(index))
    residual_features(own, TEXTS, block=block, batch_size=3)
    passes = -(-len(TEXTS) // 3)
    assert calls == [passes] * (block + 1) + [0] * (own.n_blocks - block - 1)


def test_the_last_block_needs_no_unembedding(llama):
    own = copied(llama)
    own.model.lm_head.register_forward_hook(lambda *_args: pytest.fail("logits nobody reads"))
    residual_features(own, TEXTS[:2])
    residual_features(own, TEXTS[:2], protocol="reference")


def test_no_hook_stays_and_the_model_is_as_before(lm):
    """The shared model's fixture checks both after the test."""
    before = lm.model(torch.tensor([[2, 41, 42]])).logits
    residual_features(lm, TEXTS[:3], block=0)
    assert torch.equal(lm.model(torch.tensor([[2, 41, 42]])).logits, before)


def test_order_is_that_of_the_texts_and_progress_adds_up(llama):
    texts = [*RUDE, *CIVIL]
    told: list[tuple[int, int]] = []
    features = residual_features(llama, texts, batch_size=5, progress=lambda done, total: told.append((done, total)))
    assert told == [(5, 12), (10, 12), (12, 12)]
    backwards = residual_features(llama, texts[::-1], batch_size=5)
    assert_close(backwards.vectors.flip(0), features.vectors)


def test_half_precision_is_averaged_in_float64(family_lm):
    lm = family_lm("llama")
    own = copied(lm)
    own.model.to(torch.bfloat16)
    vector = residual_features(own, [LONG]).vectors[0]
    rows = naive_strict(own, LONG, -1)
    assert vector.dtype == torch.float64
    assert torch.allclose(vector, rows.mean(0), rtol=1e-12)
    assert not torch.equal(vector, vector.bfloat16().double())


@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_a_stream_that_overflows_is_told_with_the_mend(llama, protocol):
    """Gemma's streams are near the end of float16's range."""
    own = copied(llama)
    with torch.no_grad():
        own.model.model.embed_tokens.weight *= 1e6
    own.model.to(torch.float16)
    with pytest.raises(DposcopeError, match=r"text 1 .*infinite.*float32"):
        residual_features(own, TEXTS[:1], protocol=protocol)


@pytest.mark.parametrize("block", [3, -4, 17])
def test_a_block_that_is_not_there(llama, block):
    with pytest.raises(DposcopeError, match=f"no block {block} in a model of 3 blocks"):
        residual_features(llama, TEXTS, block=block)


@pytest.mark.parametrize("block", [0, -2])
def test_the_reference_protocol_reads_the_last_block_only(llama, block):
    with pytest.raises(DposcopeError, match="reads the last block only; use block=-1, or protocol='strict'"):
        residual_features(llama, TEXTS, block=block, protocol="reference")
    own = residual_features(llama, TEXTS, block=2, protocol="reference")
    assert torch.equal(own.vectors, residual_features(llama, TEXTS, protocol="reference").vectors)


def test_a_text_of_special_tokens_alone_is_named(llama):
    with pytest.raises(DposcopeError, match="text 2 has only special tokens; remove empty texts"):
        residual_features(llama, [TEXTS[0], "", TEXTS[1]])


def test_an_empty_text_without_any_token_is_named(gpt2):
    with pytest.raises(
        DposcopeError, match="text 3 is empty, and this tokenizer adds no special token; remove that text"
    ):
        residual_features(gpt2, [TEXTS[0], TEXTS[1], ""])


@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_texts_are_cut_to_the_context_whatever_was_asked(gpt2, protocol):
    """GPT-2 has no embedding for a position beyond its last."""
    long = " ".join(TEXTS * 6)
    assert len(gpt2.tokenizer(long)["input_ids"]) > 2 * gpt2.context_length
    expected = residual_features(gpt2, [long, "a"], max_tokens=gpt2.context_length, protocol=protocol)
    features = residual_features(gpt2, [long, "a"], max_tokens=2 * gpt2.context_length, protocol=protocol)
    assert torch.equal(features.vectors, expected.vectors)


def test_features_come_back_as_they_were(llama, tmp_path):
    found = residual_features(llama, TEXTS)
    found.save(tmp_path / "features")
    again = Features.load(tmp_path / "features")
    assert torch.equal(again.vectors, found.vectors)
    assert again.residual_norm == found.residual_norm


def test_features_may_be_differentiated_with(llama):
    weight = torch.ones(llama.d_model, dtype=torch.float64, requires_grad=True)
    features = residual_features(llama, TEXTS)
    (features.vectors @ weight).sum().backward()
    assert torch.equal(weight.grad, features.vectors.sum(0))
