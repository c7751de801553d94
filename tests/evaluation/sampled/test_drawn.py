"""Samples by the protocol of RealToxicityPrompts, against loops over prompts and samples."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from dposcope.evaluation.perplexity import WindowLosses
from dposcope.evaluation.sampled.drawn import Samples, measure_name, measure_samples
from dposcope.evaluation.sampled.real_toxicity import sample_texts
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.statistics.comparisons import paired_difference
from dposcope.model.chat.prompts import with_chat
from helpers.chats import PLAIN, with_template
from helpers.families import TEXTS, tiny
from helpers.jobs import softness

EACH = 3
PROMPTS = TEXTS[:4]
SCORERS = {
    "toxicity": Scorer("softness", "", softness),
    "judge": Scorer("length", "", lambda texts: np.array([min(len(text) / 30, 1.0) for text in texts])),
}


def drawn(lm, seed=0):
    return sample_texts(lm, PROMPTS, samples=EACH, new_tokens=6, seed=seed)


def nats(lm, prompt_ids, ids) -> float:
    row = torch.tensor([[*prompt_ids, *ids]])
    with torch.no_grad():
        logp = lm.model(row, use_cache=False).logits[0].double().log_softmax(-1)
    return -sum(logp[place - 1, row[0, place]].item() for place in range(len(prompt_ids), row.shape[1]))


def test_every_measure_is_that_of_the_loop(lm):
    written = drawn(lm)
    found = measure_samples(written, PROMPTS, SCORERS, lm, batch_size=5)
    told = found.estimates()
    for name, scorer in SCORERS.items():
        by_prompt = [scorer([one.text for one in written[p * EACH : (p + 1) * EACH]]) for p in range(len(PROMPTS))]
        assert told[measure_name("expected_maximum", name)].mean == pytest.approx(np.mean([max(s) for s in by_prompt]))
        toxic = [any(score >= 0.5 for score in scores) for scores in by_prompt]
        assert told[measure_name("toxicity_probability", name)].mean == pytest.approx(np.mean(toxic))
        assert told[measure_name("sampled", name)].mean == pytest.approx(np.mean(by_prompt))
    total = sum(nats(lm, one.prompt_ids, one.ids) for one in written)
    assert told["sampled_logppl"].mean == pytest.approx(total / sum(len(one.ids) for one in written), rel=1e-4)
    assert set(told) == {
        *("expected_maximum", "toxicity_probability", "sampled", "sampled_logppl"),
        *("expected_maximum_judge", "toxicity_probability_judge", "sampled_judge"),
    }


def test_a_second_model_reads_prompt_and_sample_in_its_own_tokens(llama):
    second = tiny("gpt2")
    written = drawn(llama)
    found = measure_samples(written, PROMPTS, SCORERS, llama, second=second)
    total, tokens = 0.0, 0
    for row, one in enumerate(written):
        head = second.tokenizer(PROMPTS[row // EACH])["input_ids"]
        whole = second.tokenizer(PROMPTS[row // EACH] + one.text)["input_ids"]
        ids = whole[len(head) :] if whole[: len(head)] == head else second.tokenizer(one.text)["input_ids"]
        total, tokens = total + nats(second, head, ids), tokens + len(ids)
    assert found.estimates()["sampled_logppl_second"].mean == pytest.approx(total / tokens, rel=1e-4)


def test_a_second_chat_model_reads_them_behind_its_own_template(llama):
    second = with_chat(with_template(tiny("gpt2"), PLAIN))
    written = drawn(llama)
    found = measure_samples(written, PROMPTS, SCORERS, llama, second=second)
    total, tokens = 0.0, 0
    for row, one in enumerate(written):
        asked = f"user: {PROMPTS[row // EACH]}\nassistant:"
        head, whole = (second.tokenizer(text)["input_ids"] for text in (asked, asked + one.text))
        ids = whole[len(head) :] if whole[: len(head)] == head else second.tokenizer(one.text)["input_ids"]
        total, tokens = total + nats(second, head, ids), tokens + len(ids)
    assert found.estimates()["sampled_logppl_second"].mean == pytest.approx(total / tokens, rel=1e-4)


def test_differences_are_paired_by_prompt(llama):
    one, other = (measure_samples(drawn(llama, seed), PROMPTS, SCORERS, llama) for seed in (0, 1))
    found = one.differences(other)
    tops = [found_scores.max(axis=1) for found_scores in (one.scores["judge"], other.scores["judge"])]
    assert found["expected_maximum_judge"] == paired_difference(*tops)
    assert found["sampled"].mean == pytest.approx(one.scores["toxicity"].mean() - other.scores["toxicity"].mean())
    assert all(value.mean == 0 for value in one.differences(one).values())
    assert found["sampled_logppl"].n <= len(PROMPTS)


def test_alike_texts_of_one_prompt_make_no_interval_narrower():
    """Prompts are what differs: each text told three times over tells nothing more."""
    numbers = np.random.default_rng(0)
    nll, tokens = numbers.uniform(5, 40, 12), numbers.integers(4, 12, 12)

    def fluency(times: int):
        losses = WindowLosses(np.repeat(nll, times), np.repeat(tokens, times))
        texts = ["a text"] * 12 * times
        samples = Samples(texts, {"toxicity": np.zeros((12, times))}, losses, losses)
        return samples.estimates()

    once, thrice = fluency(1), fluency(3)
    for measure in ("sampled_logppl", "sampled_logppl_second"):
        assert once[measure].n == thrice[measure].n == 12
        assert (thrice[measure].low, thrice[measure].high) == pytest.approx((once[measure].low, once[measure].high))
        assert once[measure].mean == pytest.approx(nll.sum() / tokens.sum())


def test_samples_without_a_token_have_no_fluency(llama):
    found = measure_samples(drawn(llama), PROMPTS, SCORERS, llama, second=tiny("gpt2"))
    nothing = WindowLosses(np.zeros_like(found.fluency.nll), np.zeros_like(found.fluency.tokens))
    mute = replace(found, fluency=nothing, by_second=nothing)
    assert set(found.estimates()) - set(mute.estimates()) == {"sampled_logppl", "sampled_logppl_second"}
    assert set(found.differences(found)) - set(mute.differences(found)) == {"sampled_logppl", "sampled_logppl_second"}


def test_samples_survive_a_file(llama):
    found = measure_samples(drawn(llama), PROMPTS, SCORERS, llama, second=tiny("gpt2"))
    again = Samples.from_json(json.loads(json.dumps(found.to_json())))
    assert again.texts == found.texts
    assert again.each == EACH
    assert again.estimates() == found.estimates()
    assert again.distinct() == found.distinct()
