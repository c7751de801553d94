"""Examples in rows: every token sees its own text and nothing else, and every prediction is found once."""

import random
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Gemma3TextConfig, MistralConfig

from dposcope.errors import DposcopeError
from dposcope.training.batches.examples import Example
from dposcope.training.batches.packing import PackedBatch, pack
from dposcope.training.batches.reading import fits_one_row
from helpers.families import CONFIGS, FAMILIES, VOCABULARY, WINDOW, build

PAD = VOCABULARY  # an id that no example has, so that tests can tell padding; packing itself may not


def ids(length, draw):
    return tuple(draw.randrange(VOCABULARY) for _ in range(length))


def some(pairs, windows, *, seed=0, longest=7):
    """Pairs of every length, completions of one token among them, then windows."""
    draw = random.Random(seed)
    return [
        *(
            Example(ids(draw.randint(1, longest), draw), tuple(ids(draw.randint(1, longest), draw) for _ in range(2)))
            for _ in range(pairs)
        ),
        *(Example(ids(draw.randint(2, longest), draw)) for _ in range(windows)),
    ]


def texts(examples):
    """(example, completion number or 0, whole text, first predicted place) by sequence number, by hand."""
    pairs = [example for example in examples if example.completions]
    found = {}
    for number, example in enumerate(examples):
        for side, completion in enumerate(example.completions):
            found[side * len(pairs) + number] = ([*example.prompt, *completion], len(example.prompt))
        if not example.completions:
            found[len(pairs) + number] = (list(example.prompt), 1)
    return found


EXAMPLES = st.builds(some, st.integers(0, 6), st.integers(0, 3), seed=st.integers(0, 500)).filter(len)
ROWS = st.sampled_from([1, 12, 30, 512])


def check_predictions(batch: PackedBatch, examples) -> None:
    """Each token of each completion and window is predicted once, in order, by the place whose line ends before it."""
    wanted = texts(examples)
    mask, flat = batch.mask()[:, 0], batch.ids.flatten()
    width = batch.ids.shape[1]
    assert sorted(set(batch.sequence.tolist())) == sorted(wanted)
    assert (batch.sequence.diff() >= 0).all()
    for number, (text, first) in wanted.items():
        mine = batch.sequence == number
        assert batch.targets[mine].tolist() == text[first:]
        for place, offset in zip(batch.where[mine].tolist(), range(first, len(text)), strict=True):
            row, column = divmod(place, width)
            seen = mask[row, column].nonzero().squeeze(1)
            # What this place can see is the text before its target: nothing more, nothing less, in its order.
            assert flat[row * width + seen].tolist() == text[:offset]
            assert batch.positions[row, seen].tolist() == list(range(offset))


@given(EXAMPLES, ROWS)
def test_shared_rows_show_every_place_its_own_text(examples, row_tokens):
    check_predictions(pack(examples, pad_id=PAD, row_tokens=row_tokens), examples)


@given(EXAMPLES, st.booleans())
def test_separate_rows_show_every_place_its_own_text(examples, whole):
    batch = pack(examples, pad_id=PAD, shared=False, whole=whole)
    check_predictions(batch, examples)
    # In the order pair 1 preferred, pair 1 dispreferred, pair 2 …, windows.
    lines = [[*example.prompt, *completion] for example in examples for completion in (example.completions or ((),))]
    assert len(batch.ids) == len(lines)
    for row, line in enumerate(lines):
        windowed = not examples[batch.example[row, 0]].completions
        read = line if whole and not windowed else line[:-1]
        assert batch.ids[row, : len(read)].tolist() == read
        assert batch.positions[row, : len(read)].tolist() == list(range(len(read)))
        assert (batch.ids[row, len(read) :] == PAD).all()


@given(EXAMPLES, ROWS)
def test_the_mask_by_brute_force(examples, row_tokens):
    batch = pack(examples, pad_id=PAD, row_tokens=row_tokens)
    mask = batch.mask()
    rows, width = batch.ids.shape
    assert mask.shape == (rows, 1, width, width)
    assert mask.dtype == torch.bool
    for row in range(rows):
        example, completion = batch.example[row].tolist(), batch.completion[row].tolist()
        for query in range(width):
            for key in range(width):
                sees = query == key or (
                    key < query
                    and example[query] == example[key] != -1
                    and (completion[key] == 0 or completion[key] == completion[query])
                )
                assert mask[row, 0, query, key] == sees


@given(EXAMPLES, ROWS)
def test_only_rows_ends_are_padding_and_no_token_is_lost_or_read_twice(examples, row_tokens):
    batch = pack(examples, pad_id=PAD, row_tokens=row_tokens)
    real = batch.example >= 0
    assert torch.equal(batch.ids != PAD, real)
    assert not (real.long().diff(dim=1) > 0).any()
    assert (batch.positions[~real] == 0).all()
    assert (batch.completion[~real] == 0).all()
    # Prompts once; the last token of each completion and window predicts nothing and is not read.
    expected = sum(
        len(example.prompt)
        + (sum(len(completion) - 1 for completion in example.completions) if example.completions else -1)
        for example in examples
    )
    assert int(real.sum()) == expected
    for number, example in enumerate(examples):
        own = batch.example == number
        assert own.any(1).sum() == 1, "an example stands in one row"
        assert batch.ids[own & (batch.completion == 0)].tolist() == list(
            example.prompt if example.completions else example.prompt[:-1]
        )
        for side, completion in enumerate(example.completions):
            assert batch.ids[own & (batch.completion == side + 1)].tolist() == list(completion[:-1])


@given(EXAMPLES, ROWS)
def test_rows_are_no_longer_than_asked_unless_one_tree_is(examples, row_tokens):
    batch = pack(examples, pad_id=PAD, row_tokens=row_tokens)
    longest = max(int((batch.example == number).sum()) for number in range(len(examples)))
    assert batch.ids.shape[1] <= max(row_tokens, longest)


def test_prompts_are_read_once_and_rows_are_filled():
    """What the packing is for: 64 tokens of prompt and two completions of 20 need 2.0 times less than apart."""
    draw = random.Random(0)
    examples = [Example(ids(64, draw), (ids(20, draw), ids(20, draw))) for _ in range(8)]
    together, apart = (pack(examples, pad_id=PAD, shared=shared) for shared in (True, False))
    assert together.ids.shape == (2, 408)
    assert apart.ids.shape == (16, 83)
    assert (together.example >= 0).all()


def test_the_padding_id_changes_nothing_but_padding():
    """An id that texts hold as well: a mask of `ids != pad` would lose tokens."""
    examples = some(5, 2, seed=3)
    common = examples[0].prompt[0]
    for shared in (True, False):
        plain, other = (pack(examples, pad_id=pad, shared=shared, row_tokens=30) for pad in (PAD, common))
        assert (plain.ids == PAD).any()
        for field in fields(PackedBatch):
            one, two = getattr(plain, field.name), getattr(other, field.name)
            if field.name == "ids":
                one, two = one[plain.example >= 0], two[other.example >= 0]
            assert torch.equal(one, two), field.name
        assert torch.equal(plain.mask(), other.mask())


def test_the_same_examples_give_the_same_batch():
    one, two = (pack(some(6, 2), pad_id=PAD, row_tokens=40) for _ in range(2))
    assert all(torch.equal(getattr(one, f.name), getattr(two, f.name)) for f in fields(PackedBatch))


def test_on_another_device_everything_moves():
    batch = pack(some(2, 1), pad_id=PAD).to(torch.device("meta"))
    assert {getattr(batch, field.name).device.type for field in fields(PackedBatch)} == {"meta"}


def test_nothing_to_pack_is_refused():
    with pytest.raises(DposcopeError, match="give at least one"):
        pack([], pad_id=0)


def test_windows_before_pairs_are_refused():
    """Their numbers would be those of other pairs."""
    pair, window = some(1, 1)
    with pytest.raises(DposcopeError, match="put all pairs first"):
        pack([window, pair], pad_id=0)


# When rows may be shared


def example_of(length):
    """A pair whose longest text, its last token aside, has so many tokens."""
    return Example((1,) * (length - 2), ((2,), (2, 2, 2)))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_window_that_a_text_outgrows_forbids_sharing(family):
    model = build(CONFIGS[family]())
    windowed = family in ("mistral", "gemma2", "gemma3")
    assert fits_one_row(model, [example_of(WINDOW)])
    assert fits_one_row(model, [example_of(3), example_of(WINDOW + 1)]) == (not windowed)
    assert fits_one_row(model, [Example((1,) * 40)]) == (not windowed)
    assert fits_one_row(model, [])


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3"])
def test_a_longer_window_allows_longer_texts(family):
    config = CONFIGS[family]()
    config.sliding_window = 20
    model = build(config)
    assert fits_one_row(model, [example_of(20)])
    assert not fits_one_row(model, [example_of(21)])


def test_a_window_of_none_is_no_window():
    config = MistralConfig(**{**CONFIGS["mistral"]().to_dict(), "sliding_window": None})
    assert fits_one_row(build(config), [example_of(60)])


def test_attention_that_takes_no_mask_of_ours_forbids_sharing():
    model = build(Gemma3TextConfig(**{**CONFIGS["gemma3"]().to_dict(), "sliding_window": 50}))
    for kind, allowed in (("eager", True), ("sdpa", True), ("flex_attention", False), ("flash_attention_2", False)):
        model.config._attn_implementation_internal = kind
        assert fits_one_row(model, [example_of(9)]) == allowed


def test_an_example_is_a_value():
    example = Example((1, 2), ((3,), (4,)))
    assert replace(example) == example
    assert len({example, Example((1, 2), ((3,), (4,)))}) == 1
