"""Texts to padded batches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dposcope as ds
from dposcope.errors import DposcopeError
from dposcope.evaluation.sampled.continuations import continuation_losses
from dposcope.model.batches import batches, encode, rows_to_read, rows_to_write, rows_with_room
from dposcope.model.generate import Continuation
from dposcope.model.hooks import hooked, residual_site
from dposcope.model.language_model import LanguageModel
from dposcope.model.size import ModelSize, model_size
from helpers.families import TEXTS, bos_tokenizer, gpt2_like_tokenizer, tiny

LM = tiny("llama")


# Encoding


def test_texts_are_tokenised_as_the_tokenizer_does(lm):
    assert encode(lm, TEXTS) == [lm.tokenizer(text)["input_ids"] for text in TEXTS]
    assert encode(lm, []) == []


@given(st.integers(1, 40), st.sampled_from(["start", "end"]), st.booleans())
def test_cut_texts_keep_one_side_and_a_leading_special_token(limit, keep, begins):
    lm = LanguageModel(LM.model, bos_tokenizer() if begins else gpt2_like_tokenizer())
    for text, ids in zip(TEXTS, encode(lm, TEXTS, max_tokens=limit, keep=keep), strict=True):
        whole = lm.tokenizer(text)["input_ids"]
        assert len(ids) == min(limit, len(whole))
        if keep == "start" or len(whole) <= limit:
            assert ids == whole[: len(ids)]
        elif begins:
            assert ids[0] == 2
            assert ids[1:] == whole[len(whole) - len(ids) + 1 :]
        else:
            assert ids == whole[len(whole) - len(ids) :]


def test_the_end_is_kept_unless_told():
    assert encode(LM, TEXTS[3:4], max_tokens=4) == encode(LM, TEXTS[3:4], max_tokens=4, keep="end")


@pytest.mark.parametrize("keep", ["start", "end"])
@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit, keep):
    with pytest.raises(DposcopeError, match="below 1"):
        encode(LM, TEXTS, max_tokens=limit, keep=keep)


def test_a_text_without_tokens_is_refused_by_row(gpt2):
    with pytest.raises(
        DposcopeError, match="text 3 is empty, and this tokenizer adds no special token; remove that text"
    ):
        encode(gpt2, ["a", "b", ""])
    assert encode(LM, [""]) == [[2]]


def test_a_tokenizer_set_to_truncate_or_pad_does_neither_here():
    tokenizer = bos_tokenizer()
    tokenizer.backend_tokenizer.enable_truncation(3)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert encode(LanguageModel(LM.model, tokenizer), TEXTS) == encode(LM, TEXTS)


# Batches


@given(
    st.lists(st.lists(st.integers(4, 90), min_size=1, max_size=9), min_size=1, max_size=12),
    st.integers(1, 14),
    st.sampled_from(["left", "right"]),
)
def test_batches_hold_every_text_once_longest_first(encoded, size, side):
    seen, widths = {}, []
    for batch in batches(LM, encoded, batch_size=size, side=side):
        assert 1 <= len(batch.rows) <= size
        assert batch.ids.shape == batch.mask.shape == (len(batch.rows), max(len(encoded[row]) for row in batch.rows))
        assert batch.ids.dtype == batch.mask.dtype == torch.int64
        widths.append(batch.ids.shape[1])
        for place, row in enumerate(batch.rows):
            seen[row] = [t for t, m in zip(batch.ids[place].tolist(), batch.mask[place].tolist(), strict=True) if m]
            mask = "".join(map(str, batch.mask[place].tolist()))
            pads, reals = "0" * (mask.count("0")), "1" * mask.count("1")
            assert mask == (pads + reals if side == "left" else reals + pads)
            assert (batch.ids[place][batch.mask[place] == 0] == LM.pad_id).all()
        assert batch.lengths.tolist() == [len(encoded[row]) for row in batch.rows]
    assert [seen[row] for row in range(len(encoded))] == encoded
    assert widths == sorted(widths, reverse=True)


def test_equal_lengths_keep_their_order():
    (batch,) = batches(LM, [[5], [6, 7], [8], [9, 10]], batch_size=9, side="left")
    assert batch.rows == [1, 3, 0, 2]


def test_masks_come_from_lengths_not_from_the_padding_id():
    """A text may hold the padding token: GPT-2's is its end of text."""
    (batch,) = batches(LM, [[LM.pad_id, 5, LM.pad_id], [6]], batch_size=2, side="left")
    assert batch.mask.tolist() == [[1, 1, 1], [0, 0, 1]]


@pytest.mark.parametrize("size", [0, -2])
def test_a_batch_holds_at_least_one(size):
    with pytest.raises(DposcopeError, match=f"batch size {size} is below 1; give a positive number"):
        list(batches(LM, [[1]], batch_size=size, side="left"))


def test_no_text_no_batch():
    assert list(batches(LM, [], batch_size=3, side="left")) == []


# How many at a time, unless a number is given

SMALL = ModelSize(parameters=10**6, vocabulary=100, width=64, blocks=4, mlp=256, key_width=64)
LLAMA_8B = ModelSize(parameters=8 * 10**9, vocabulary=128_256, width=4096, blocks=32, mlp=14_336, key_width=1024)
LLAMA_70B = ModelSize(parameters=70 * 10**9, vocabulary=128_256, width=8192, blocks=80, mlp=28_672, key_width=1024)


def test_a_number_that_is_given_is_taken():
    prompts = [[1, 2, 3]] * 300
    assert rows_to_read(7) == rows_to_write(LM, prompts, 20, 7) == 7
    assert rows_to_write(LM, prompts, 20, 1000) == 1000


@pytest.mark.parametrize(("prompts", "rows"), [(1, 1), (32, 32), (33, 33), (128, 128), (129, 65), (300, 100), (0, 1)])
def test_a_small_model_writes_in_few_batches_of_like_size(prompts, rows):
    assert rows_with_room(SMALL, 2, prompts, 30, 20) == rows


@pytest.mark.parametrize(("size", "most"), [(SMALL, 128), (LLAMA_8B, 64), (LLAMA_70B, 32)])
def test_prompts_have_room_in_four_gigabytes(size, most):
    rows = rows_with_room(size, 2, 100_000, 256, 20)
    keys = 2 * size.blocks * size.key_width * (256 + 20) * 2
    activations = 256 * (4 * size.width + 3 * size.mlp) * 2
    assert rows == most
    assert rows in (32, 128) or rows * (keys + activations) <= 4 * 2**30 < (rows + 1) * (keys + activations)


def test_of_a_loaded_model_they_are_those_of_its_size():
    prompts = [[1] * (1 + row % 9) for row in range(200)]
    assert rows_to_write(LM, prompts, 20, None) == 100
    assert rows_to_write(LM, prompts[:32], 20, None) == rows_to_read(None) == 32
    assert model_size(LM.model).row_bytes(9, 20, 4) * 128 < 4 * 2**30


def test_without_a_number_as_many_are_read_and_written_as_told(lm):
    seen = []
    with hooked(lm, [(residual_site(lm, 0), lambda stream, _frame: seen.append(len(stream)))]):
        ds.generate(lm, [TEXTS[0]] * 70, new_tokens=2, stop_at_end=False)
        assert seen == [70, 70]
        seen.clear()
        ds.collect_means(lm, [TEXTS[0]] * 70, new_tokens=2)
        assert set(seen) == {70}
        seen.clear()
        continuation_losses(lm, [Continuation([1, 2], [3], "c")] * 70)
        assert seen == [32, 32, 6]
