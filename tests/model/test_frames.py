"""Absolute positions: every kind against a loop over single prompts, with and without cache, in padded batches."""

from dataclasses import replace

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.assign import Assign
from dposcope.interventions.gains import Gains
from dposcope.interventions.steer import Steer
from dposcope.model.cache import cache_argument
from dposcope.model.frames import Frame, Positions, Prompted, prompted
from dposcope.model.generate import generate
from dposcope.model.hooks import hooked, neuron_site, residual_site
from dposcope.neurons.sets import NeuronSet
from helpers.families import TEXTS, assert_close, greedy, logits_of, random_direction, random_gains, trace, without_end

NEW = 8

COUNTS = {
    "all": lambda p, length: True,
    "last": lambda p, length: p >= length - 1,
    "generated": lambda p, length: p >= length,
    "prompt": lambda p, length: p < length,
    "first": lambda p, length: p == 0,
}


def only_at(where, length, change):
    """A rule for the naive loop: `change` of each row whose absolute position counts."""

    def rule(block, rows):
        changed = change(block, rows)
        return torch.stack([changed[p] if COUNTS[where](p, length) else rows[p] for p in range(len(rows))])

    return rule


def naive(lm, where, site, change):
    texts = []
    for text in TEXTS:
        ids = lm.tokenizer(text)["input_ids"]
        texts.append(without_end(lm, greedy(lm, ids, NEW, **{site: only_at(where, len(ids), change)})))
    return texts


def written(lm, **settings):
    return [continuation.ids for continuation in generate(lm, TEXTS, new_tokens=NEW, **settings)]


# Every kind of position


@pytest.mark.parametrize("where", COUNTS)
def test_gains_act_where_the_naive_loop_does(lm, where):
    gains = Gains(random_gains(lm))
    expected = naive(lm, where, "neurons", lambda block, m: m * gains.values[block])
    with replace(gains, positions=where).on(lm):
        assert written(lm) == expected
        assert written(lm, use_cache=False) == expected
        assert written(lm, batch_size=3) == expected
    assert written(lm) != expected, "the gains change nothing: this tests nothing"


@pytest.mark.parametrize("where", COUNTS)
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_assign_and_steer_act_where_the_naive_loop_does(family_lm, family, where):
    lm = family_lm(family)
    values = 2 * torch.randn(lm.n_blocks, lm.d_mlp, generator=torch.Generator().manual_seed(4))
    assign = Assign(values, NeuronSet(values > 0.3), positions=Positions(where))
    expected = naive(lm, where, "neurons", lambda block, m: torch.where(values[block] > 0.3, values[block], m))
    with assign.on(lm):
        assert written(lm) == expected
        assert written(lm, use_cache=False) == expected
    vector = random_direction(lm, 3).float()
    expected = naive(lm, where, "stream", lambda block, x: x - 2 * vector if block == 1 else x)
    with Steer(vector, alpha=2.0, block=1, positions=where).on(lm):
        assert written(lm) == expected
        assert written(lm, use_cache=False) == expected


def test_the_kinds_of_position_differ(lm):
    texts = []
    for where in COUNTS:
        with Gains(random_gains(lm), positions=where).on(lm):
            texts.append(written(lm))
    assert len({str(text) for text in texts}) >= 4


def test_generated_leaves_the_first_new_token_alone_and_last_does_not(llama):
    plain = [row[:1] for row in written(llama)]
    with Gains(random_gains(llama), positions="generated").on(llama):
        assert [row[:1] for row in written(llama)] == plain
    with Gains(random_gains(llama), positions="last").on(llama):
        assert [row[:1] for row in written(llama)] != plain


@pytest.mark.parametrize("use_cache", [True, False])
def test_positions_are_absolute_at_every_step(lm, use_cache):
    """The frame's own table, for the shortest and the longest prompt in one padded batch."""
    frames = []
    texts = [TEXTS[2], TEXTS[6]]
    lengths = [len(lm.tokenizer(text)["input_ids"]) for text in texts]
    with hooked(lm, [(neuron_site(lm, 0), lambda m, frame: frames.append(frame))]):
        generate(lm, texts, new_tokens=3, stop_at_end=False, use_cache=use_cache)
    pad = lengths[1] - lengths[0]
    rows = [list(range(lengths[1])), [-1] * pad + list(range(lengths[0]))]  # longest first
    assert frames[0].positions.tolist() == rows
    for step in (1, 2):
        rows = [[*row, row[-1] + 1] for row in rows]
        assert frames[step].positions.tolist() == ([[row[-1]] for row in rows] if use_cache else rows)


# Texts without a prompt


@pytest.mark.parametrize("where", ["all", "last", "generated", "prompt"])
def test_on_a_text_without_a_prompt_every_position_counts(lm, where):
    ids = [2, 41, 42, 43, 60, 61, 77, 30]
    gains = Gains(random_gains(lm))
    expected = trace(lm, ids, neurons=lambda block, m: m * gains.values[block]).logits
    with replace(gains, positions=where).on(lm):
        assert_close(logits_of(lm, ids), expected)


def test_first_is_the_first_position_of_a_text_without_a_prompt(lm):
    ids = [2, 41, 42, 43, 60, 61, 77, 30]
    gains = Gains(random_gains(lm))
    expected = trace(lm, ids, neurons=only_at("first", 0, lambda block, m: m * gains.values[block])).logits
    with replace(gains, positions="first").on(lm):
        assert_close(logits_of(lm, ids), expected)
        padded = torch.tensor([[3, 3, 3, *ids]])
        mask = torch.tensor([[0] * 3 + [1] * len(ids)])
        places = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = lm.model(input_ids=padded, attention_mask=mask, position_ids=places).logits[0, 3:]
        assert_close(logits.detach(), expected)


@pytest.mark.parametrize("how", ["positional", "embedded", "mask", "none"])
def test_positions_are_found_however_the_model_is_called(llama, how):
    ids = torch.tensor([[2, 41, 42, 43, 60]])
    frames = []
    calls = {
        "positional": lambda: llama.model(ids),
        "embedded": lambda: llama.model(inputs_embeds=llama.model.get_input_embeddings()(ids)),
        "mask": lambda: llama.model(input_ids=ids, attention_mask=torch.ones_like(ids)),
        "none": lambda: llama.model(input_ids=ids),
    }
    with hooked(llama, [(neuron_site(llama, 0), lambda m, frame: frames.append(frame))]):
        calls[how]()
    assert frames[0].positions.tolist() == [[0, 1, 2, 3, 4]]


def test_a_cache_without_a_mask_moves_positions_on(llama):
    frames = []
    with hooked(llama, [(residual_site(llama, 0), lambda x, frame: frames.append(frame))]):
        past = llama.model(input_ids=torch.tensor([[2, 41, 42]]), use_cache=True).past_key_values
        llama.model(input_ids=torch.tensor([[60, 61]]), **{cache_argument(llama.model): past})
    assert frames[1].positions.tolist() == [[3, 4]]


# Hugging Face's own generate


def hf_generate(lm, prompt_lengths=None, **settings):
    encoded = [lm.tokenizer(text)["input_ids"] for text in TEXTS]
    width = max(len(ids) for ids in encoded)
    ids = torch.tensor([[lm.pad_id] * (width - len(row)) + row for row in encoded])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in encoded])
    settings = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": lm.pad_id} | settings

    def run():
        return lm.model.generate(input_ids=ids, attention_mask=mask, **settings)[:, width:].tolist()

    if prompt_lengths:
        with prompted(mask.sum(-1)):
            rows = run()
    else:
        rows = run()
    return [ended(lm, row) for row in rows]


def ended(lm, row):
    ends = [place for place, token in enumerate(row) if token in lm.end_ids]
    return row[: ends[0]] if ends else row


def test_model_generate_works_at_all_positions(lm):
    gains = Gains(random_gains(lm))
    with gains.on(lm):
        assert hf_generate(lm) == written(lm)


@pytest.mark.parametrize("where", ["last", "generated", "prompt"])
def test_model_generate_needs_the_prompts_lengths_for_the_rest(lm, where):
    gains = Gains(random_gains(lm), positions=where)
    with gains.on(lm):
        with pytest.raises(DposcopeError, match=r"use dposcope\.generate, or wrap the call in .*dposcope\.prompted"):
            hf_generate(lm)
        expected = written(lm)
        assert hf_generate(lm, prompt_lengths=True) == expected
        assert hf_generate(lm, prompt_lengths=True, use_cache=False) == expected


def test_the_mend_that_the_error_names_works(gpt2):
    """Word for word: with dposcope.prompted(inputs["attention_mask"].sum(-1))."""
    inputs = gpt2.tokenizer(TEXTS[0], return_tensors="pt", return_token_type_ids=False)
    with Gains(random_gains(gpt2), positions="last").on(gpt2):
        expected = generate(gpt2, [TEXTS[0]], new_tokens=NEW)[0].ids
        with prompted(inputs["attention_mask"].sum(-1)):
            ids = gpt2.model.generate(**inputs, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    assert ended(gpt2, ids[0, inputs["input_ids"].shape[1] :].tolist()) == expected


def test_lengths_of_another_batch_are_refused(llama):
    """Beam search and several sequences per prompt repeat the rows."""
    ids = torch.tensor([[2, 41, 42], [2, 50, 51]])
    with (
        pytest.raises(DposcopeError, match=r"2.*4|4.*2"),
        Gains(random_gains(llama), positions="last").on(llama),
        prompted(torch.tensor([3, 3])),
    ):
        llama.model.generate(
            ids, attention_mask=torch.ones_like(ids), num_return_sequences=2, do_sample=True, max_new_tokens=2
        )


# The pieces


def test_prompted_ends_with_its_context(llama):
    gains = Gains(random_gains(llama), positions="generated")
    ids = [2, 41, 42, 43, 60]
    with gains.on(llama):
        everywhere = logits_of(llama, ids)
        with prompted(torch.tensor([5])):
            nowhere = logits_of(llama, ids)
            with prompted(torch.tensor([1])):
                logits_of(llama, ids)
            assert torch.equal(logits_of(llama, ids), nowhere)
        with pytest.raises(ZeroDivisionError), prompted(torch.tensor([5])):
            _ = 1 / 0
        assert torch.equal(logits_of(llama, ids), everywhere)
    assert torch.equal(nowhere, logits_of(llama, ids))
    assert not torch.allclose(everywhere, nowhere)


def test_select_on_a_table_of_positions():
    frame = Frame(torch.tensor([[-1, 0, 1, 2], [0, 1, 2, 3]]), Prompted(torch.tensor([2, 3])))
    assert frame.select(Positions.ALL) is None
    assert frame.select(Positions.FIRST).tolist() == [[False, True, False, False], [True, False, False, False]]
    assert frame.select(Positions.LAST).tolist() == [[False, False, True, True], [False, False, True, True]]
    assert frame.select(Positions.GENERATED).tolist() == [[False, False, False, True], [False, False, False, True]]
    assert frame.select(Positions.PROMPT).tolist() == [[False, True, True, False], [True, True, True, False]]
    bare = Frame(frame.positions, None)
    assert all(bare.select(p) is None for p in (Positions.LAST, Positions.GENERATED, Positions.PROMPT))
    assert bare.predicting().tolist() == [[False, True, True, True], [True, True, True, True]]


def test_predicting_leaves_out_rows_that_have_ended():
    positions = torch.tensor([[5], [7]])
    prompt = Prompted(torch.tensor([5, 7]), running=torch.tensor([True, False]))
    assert Frame(positions, prompt, cached=True).predicting().tolist() == [[True], [False]]


def test_an_unknown_position_is_an_error_of_ours(llama):
    with pytest.raises(DposcopeError, match=r"lats.*all.*last.*generated.*prompt"):
        Gains(random_gains(llama), positions="lats")


def test_a_position_may_be_given_as_text(llama):
    """`positions="last"` in a constructor is what a script writes."""
    where, gains, vector = "generated", random_gains(llama), random_direction(llama)
    for one in (Gains(gains), Assign(gains, NeuronSet(gains != 1)), Steer(vector, 1.0)):
        assert replace(one, positions=where).positions is Positions.GENERATED
