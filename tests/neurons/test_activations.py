"""Neuron means against loops over single texts: which positions count, and how they are added up."""

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dposcope.errors import DposcopeError
from dposcope.interventions.gains import Gains
from dposcope.model.batches import batches, encode
from dposcope.model.chat.prompts import asked_how, with_chat
from dposcope.model.generate import Sampling, generate
from dposcope.neurons.activations import ActivationAccumulator, NeuronMeans, collect_means, recording
from helpers.chats import BEGINS, with_template
from helpers.families import TEXTS, assert_close, copied, greedy, random_gains, tiny, trace

NEW = 8
# Random weights of this strength carry the rounding of float32 a good way; a wrong position is off by 0.1 and more.
ROUNDING = 5e-6


def moments(rows):
    """Mean, second moment and count of rows `[n, L, d_mlp]`, added up in float64."""
    rows = rows.double()
    return rows.mean(0), rows.square().mean(0), len(rows)


def assert_moments(means, rows, tolerance):
    mean, second, count = moments(rows)
    assert means.count == count
    assert_close(means.mean, mean, tolerance)
    assert_close(means.second_moment, second, 10 * tolerance)


def predicting_rows(lm, texts, new_tokens, **rules):
    """Activations at exactly the positions that predict: P−1 …, end-of-text predicted, nothing after it."""
    rows = []
    for text in texts:
        prompt = lm.tokenizer(text)["input_ids"]
        written = greedy(lm, prompt, new_tokens, **rules)
        seen = torch.stack(trace(lm, prompt + written, **rules).neurons)
        for step in range(len(written)):
            rows.append(seen[:, len(prompt) - 1 + step])
    return torch.stack(rows)


# Strict


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_strict_means_are_those_at_the_predicting_positions(lm, batch_size):
    means = collect_means(lm, TEXTS, new_tokens=NEW, batch_size=batch_size)
    assert_moments(means, predicting_rows(lm, TEXTS, NEW), ROUNDING)
    assert means.mean.dtype == means.second_moment.dtype == torch.float64


def test_end_of_text_is_counted_and_nothing_after_it(lm):
    written = [len(greedy(lm, lm.tokenizer(text)["input_ids"], NEW)) for text in TEXTS]
    assert min(written) < NEW, "no row ends early: this tests too little"
    assert collect_means(lm, TEXTS, new_tokens=NEW).count == sum(written)


def test_a_cache_makes_no_difference_to_what_is_recorded(lm):
    with recording(lm) as cached:
        first = generate(lm, TEXTS, new_tokens=NEW)
    with recording(lm) as uncached:
        second = generate(lm, TEXTS, new_tokens=NEW, use_cache=False)
    assert first == second
    assert uncached.value().count == cached.value().count
    assert_close(uncached.value().mean, cached.value().mean)


def test_sampled_texts_are_recorded_alike_in_any_batch(lm):
    values = []
    for batch_size in (1, 3, 32):
        with recording(lm) as accumulator:
            generate(lm, TEXTS, new_tokens=NEW, sampling=Sampling(seed=2), batch_size=batch_size)
        values.append(accumulator.value())
    assert len({value.count for value in values}) == 1
    assert_close(values[0].mean, values[2].mean, ROUNDING)
    assert_close(values[1].mean, values[2].mean, ROUNDING)


def test_rows_that_never_stop_are_recorded_to_the_end(llama):
    with recording(llama) as accumulator:
        generate(llama, TEXTS, new_tokens=NEW, stop_at_end=False)
    assert accumulator.value().count == NEW * len(TEXTS)


def test_long_prompts_are_cut_to_their_end(llama):
    cut = [[2, *llama.tokenizer(text)["input_ids"][1:][-5:]] for text in TEXTS]
    rows = []
    for prompt in cut:
        written = greedy(llama, prompt, NEW)
        seen = torch.stack(trace(llama, prompt + written).neurons)
        rows += [seen[:, len(prompt) - 1 + step] for step in range(len(written))]
    assert_moments(collect_means(llama, TEXTS, new_tokens=NEW, max_prompt_tokens=6), torch.stack(rows), ROUNDING)


def test_half_precision_activations_are_added_up_in_double(llama):
    lm = copied(llama)
    lm.model.to(torch.bfloat16)
    with recording(lm) as accumulator:
        written = generate(lm, [TEXTS[0]] * 1, new_tokens=1, stop_at_end=False)
    exact = torch.stack(trace(lm, written[0].prompt_ids).neurons)[:, -1].double()
    assert torch.equal(accumulator.value().mean, exact)


# Reference


@pytest.mark.parametrize("batch_size", [1, 3])
def test_reference_means_are_those_of_a_second_pass(lm, batch_size):
    """Positions P … P+n−1 of prompt and continuation, ended rows going on."""
    rows = []
    for text in TEXTS:
        prompt = lm.tokenizer(text)["input_ids"]
        ids = list(prompt)
        for _ in range(NEW):
            ids.append(int(trace(lm, ids).logits[-1].argmax()))
        seen = torch.stack(trace(lm, ids).neurons)
        rows += [seen[:, len(prompt) + step] for step in range(NEW)]
    means = collect_means(lm, TEXTS, new_tokens=NEW, protocol="reference", batch_size=batch_size)
    assert means.count == NEW * len(TEXTS)
    assert_moments(means, torch.stack(rows), ROUNDING)


@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_a_chat_models_means_are_at_positions_after_its_frame(llama, protocol):
    lm = with_chat(with_template(llama, BEGINS), wrap="go on: {prompt}")
    rows = []
    for text in TEXTS:
        said = [{"role": "user", "content": f"go on: {text}"}]
        prompt = lm.tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = greedy(lm, prompt, NEW)
        if protocol == "reference":
            ids = []
            for _ in range(NEW):
                ids.append(int(trace(lm, prompt + ids).logits[-1].argmax()))
        seen = torch.stack(trace(lm, prompt + ids).neurons)
        first = len(prompt) - (protocol == "strict")
        rows += [seen[:, first + step] for step in range(len(ids))]
    means = collect_means(lm, TEXTS, new_tokens=NEW, protocol=protocol, batch_size=3)
    assert_moments(means, torch.stack(rows), ROUNDING)
    assert means.about["asking"] == {**asked_how(lm)["asking"], "wrap": "go on: {prompt}"}
    assert "asking" not in collect_means(llama, TEXTS[:1], new_tokens=1).about


def test_reference_does_not_cut_prompts(llama):
    kept = collect_means(llama, TEXTS, new_tokens=4, protocol="reference", max_prompt_tokens=5)
    assert torch.equal(kept.mean, collect_means(llama, TEXTS, new_tokens=4, protocol="reference").mean)


def test_the_protocols_differ(lm):
    strict = collect_means(lm, TEXTS, new_tokens=NEW)
    reference = collect_means(lm, TEXTS, new_tokens=NEW, protocol="reference")
    assert (strict.mean - reference.mean).abs().max() > 1e-2


# Recording anything


def test_a_plain_pass_records_every_real_token(lm):
    encoded = encode(lm, TEXTS)
    with recording(lm) as accumulator:
        for batch in batches(lm, encoded, batch_size=3, side="right"):
            lm.model(input_ids=batch.ids, attention_mask=batch.mask)
    rows = torch.cat([torch.stack(trace(lm, ids).neurons, 1) for ids in encoded])
    assert_moments(accumulator.value(), rows, ROUNDING)


def test_an_inner_recorder_sees_what_an_outer_intervention_left(lm):
    gains = Gains(random_gains(lm))
    rows = predicting_rows(lm, TEXTS, NEW, neurons=lambda block, m: m * gains.values[block])
    with gains.on(lm), recording(lm) as accumulator:
        generate(lm, TEXTS, new_tokens=NEW)
    assert_moments(accumulator.value(), rows, ROUNDING)


def test_no_prompt_and_no_token_are_errors(llama):
    with pytest.raises(DposcopeError, match="prompt"):
        collect_means(llama, [])
    with pytest.raises(DposcopeError, match="no activations recorded"):
        ActivationAccumulator(2, 3).value()


def test_progress_is_passed_on(llama):
    calls = []
    collect_means(llama, TEXTS, new_tokens=2, batch_size=5, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(5, 8), (8, 8)]


def test_means_say_where_they_come_from(llama):
    about = collect_means(llama, TEXTS, new_tokens=3).about
    expected = {"model": "tiny-llama", "protocol": "strict", "prompts": 8, "new_tokens": 3, "dtype": "float32"}
    assert {key: about[key] for key in expected} == expected
    assert about["fingerprint"] == llama.fingerprint


# The accumulator


@given(st.lists(st.integers(0, 7), min_size=1, max_size=6), st.integers(0, 3), st.integers(0, 2**20))
def test_streaming_is_the_mean_over_everything_stored(sizes, folds, seed):
    """However the tokens are split into updates, of all of them and of each fold."""
    stream = torch.Generator().manual_seed(seed)
    parts = [[100 * torch.randn(n, 5, generator=stream) + 50 for n in sizes] for _ in range(2)]
    fold_of = [torch.randint(folds, (n,), generator=stream) if folds else None for n in sizes]
    accumulator = ActivationAccumulator(2, 5, folds=folds)
    for first, second, own in zip(*parts, fold_of, strict=True):
        accumulator.update(1, second, own)
        accumulator.update(0, first, own)
    stored = torch.stack([torch.cat(part) for part in parts]).double()
    for fold in (None, *range(folds)):
        rows = stored if fold is None else stored[:, torch.cat(fold_of) == fold]
        count = rows.shape[1]
        if count == 0:
            with pytest.raises(DposcopeError, match="no activations recorded"):
                accumulator.value(fold=fold)
            continue
        value = accumulator.value({"a": 1}, fold=fold)
        assert value.count == count
        torch.testing.assert_close(value.mean, rows.mean(1), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(value.second_moment, rows.square().mean(1), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(value.variance, rows.var(1, correction=0), rtol=1e-9, atol=1e-9)
        if count > 1:
            torch.testing.assert_close(value.standard_error, rows.std(1) / count**0.5, rtol=1e-9, atol=1e-9)
        assert value.about == {"a": 1}


def test_tokens_may_be_added_inside_and_outside_inference_mode():
    accumulator = ActivationAccumulator(1, 2, folds=2)
    for mode in (True, False, True):
        with torch.inference_mode(mode):
            accumulator.update(0, torch.ones(2, 2, requires_grad=not mode), torch.tensor([0, 1]))
    assert accumulator.value().mean.tolist() == [[1.0, 1.0]]
    assert [accumulator.value(fold=fold).count for fold in range(2)] == [3, 3]


def test_half_precision_rows_keep_every_bit():
    """In bfloat16 256 + 1 is 256; a thousand ones after 256 must not be lost."""
    accumulator = ActivationAccumulator(1, 1)
    accumulator.update(0, torch.full((1, 1), 256.0, dtype=torch.bfloat16))
    accumulator.update(0, torch.ones(1000, 1, dtype=torch.bfloat16))
    assert accumulator.value().mean.item() == 1256 / 1001


def test_blocks_that_saw_different_tokens_are_an_error():
    accumulator = ActivationAccumulator(2, 3)
    accumulator.update(0, torch.ones(2, 3))
    with pytest.raises(DposcopeError, match="different numbers of tokens"):
        accumulator.value()


def test_variance_is_never_negative():
    third = torch.full((1, 2), 1 / 3, dtype=torch.float64)
    means = NeuronMeans(third, third.square() - 1e-12, 5)
    assert (means.variance == 0).all()
    assert NeuronMeans(third, third, 1).standard_error.isfinite().all()


# On disk


def test_means_come_back_as_they_were(tmp_path, llama):
    means = collect_means(llama, TEXTS, new_tokens=2)
    means.save(tmp_path / "means")
    again = NeuronMeans.load(tmp_path / "means.safetensors")
    assert torch.equal(again.mean, means.mean)
    assert torch.equal(again.second_moment, means.second_moment)
    assert again.count == means.count
    assert again.about == means.about
    assert sorted(path.name for path in tmp_path.iterdir()) == ["means.json", "means.safetensors"]


def test_the_table_has_a_row_per_neuron():
    means = NeuronMeans(torch.arange(6.0).view(2, 3).double(), torch.arange(6.0, 12).view(2, 3).double(), 4)
    table = means.to_polars()
    assert table.columns == ["block", "neuron", "mean", "second_moment"]
    assert table.rows() == [
        (0, 0, 0.0, 6.0),
        (0, 1, 1.0, 7.0),
        (0, 2, 2.0, 8.0),
        (1, 0, 3.0, 9.0),
        (1, 1, 4.0, 10.0),
        (1, 2, 5.0, 11.0),
    ]
    assert table["mean"].dtype == pl.Float64


@pytest.mark.parametrize("kind", ["llama", "gpt_oss"])
def test_means_are_collected_in_a_callers_inference_mode(kind):
    lm = tiny(kind)
    expected = collect_means(lm, TEXTS[:3], new_tokens=3)
    with torch.inference_mode():
        found = collect_means(lm, TEXTS[:3], new_tokens=3)
        with recording(lm) as recorded:
            generate(lm, TEXTS[:3], new_tokens=3)
    assert torch.equal(found.mean, expected.mean)
    assert torch.equal(recorded.value().mean, expected.mean)
