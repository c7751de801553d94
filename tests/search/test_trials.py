"""A trial: cost first, text only within bounds, weights put back to the bit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from dposcope.evaluation.repetition import distinct_n, repetition
from dposcope.evaluation.sampled.continuations import relevance
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.statistics.comparisons import bootstrap_mean
from dposcope.interventions.fold import in_effect
from dposcope.interventions.gains import Gains
from dposcope.model.generate import Continuation, generate
from dposcope.search.divergence import Cost, NeutralText
from dposcope.search.family import Family, Point, Source
from dposcope.search.harmless_text import HarmlessText
from dposcope.search.trials import Bound, Objective, TextBound, Written
from helpers.families import TEXTS, random_direction

LENGTH = Scorer("length", "", lambda texts: [min(len(text) / 100, 1.0) for text in texts])


def objective(lm, bound):
    stream = torch.Generator().manual_seed(0)
    gains = Gains(1 + 0.5 * torch.randn(lm.n_blocks, lm.d_mlp, generator=stream))
    family = Family({"learned": Source.line(gains)}, random_direction(lm).float(), lm.n_blocks)
    neutral = NeutralText.read(lm, "\n\n".join(TEXTS * 3), windows=4, length=16)
    return Objective(lm, family, neutral, TEXTS, LENGTH, bound, batch_size=3, new_tokens=6)


def weights(lm):
    return {name: (value, value.detach().clone()) for name, value in lm.model.named_parameters()}


def test_a_trial_is_what_the_hooked_edit_gives(lm):
    asked = objective(lm, Bound())
    point = Point("learned", 0.8, 0.3, 0.5)
    found = asked.try_out(point, 7)
    edit = asked.family.edit(point)
    with edit.on(lm):
        cost = asked.neutral.cost(lm)
        texts = [one.text for one in generate(lm, TEXTS, new_tokens=6)]
    assert found.number == 7
    assert found.kl == pytest.approx(cost.kl.mean(), rel=1e-3)
    assert found.rise == pytest.approx(cost.rise.mean(), abs=1e-4)
    assert found.written.concept == pytest.approx(LENGTH(texts).mean())
    assert found.written.repetition == pytest.approx(np.mean([repetition(text) for text in texts]))
    assert found.written.distinct_2 == distinct_n(texts, 2)
    assert found.written.repetition_high == bootstrap_mean([repetition(text) for text in texts]).high


@pytest.mark.parametrize(
    ("repeated", "distinct", "enough"),
    [(0.1, 0.5, True), (0.0, 0.45, True), (0.1, 1.0, True), (0.109, 0.9, True), (0.12, 0.9, False), (0.0, 0.44, False)],
)
def test_texts_say_too_little_when_they_repeat_themselves_or_one_another(repeated, distinct, enough):
    text_bound = TextBound(Written(0.3, 0.3, 0.3, 0.1, 0.5, 0.1), 0.9)
    found = Written(0.1, 0.1, 0.1, repeated, distinct, repeated)
    assert text_bound.allows(found) is enough
    assert text_bound.excess(found) == pytest.approx(
        {"repetition": repeated - 0.11, "distinct_2": 0.45 - distinct, "phrase": -1.0, "relevance": 0.0}
    )


def test_repetition_may_rise_within_what_cannot_be_told_from_the_plain_model():
    text_bound = TextBound(Written(0.3, 0.3, 0.3, 0.1, 0.5, 0.15))
    assert [text_bound.allows(Written(0.1, 0.1, 0.1, mean, 0.5, 0.9)) for mean in (0.149, 0.151)] == [True, False]
    never = TextBound(Written(0.3, 0.3, 0.3, 0.0, 0.5, 0.0))
    assert [never.allows(Written(0.1, 0.1, 0.1, mean, 0.5, 0.9)) for mean in (0.009, 0.011)] == [True, False]


def test_weights_are_the_same_objects_with_the_same_bits_afterwards(llama):
    before = weights(llama)
    objective(llama, Bound()).try_out(Point("learned", 1.0, 0.0, 1.0))
    for name, value in llama.model.named_parameters():
        assert value is before[name][0]
        assert torch.equal(value, before[name][1])


def test_a_trial_out_of_bounds_writes_nothing(llama, monkeypatch):
    asked = objective(llama, Bound(kl=1e-9))
    monkeypatch.setattr("dposcope.search.trials.generate", None)
    found = asked.try_out(Point("learned", 1.0))
    assert found.written is None
    assert not found.within_bounds
    assert found.excess > 0


def test_no_edit_is_within_any_bound(llama):
    found = objective(llama, Bound(kl=0.0001, rise=0.0001)).try_out(Point("learned", 0.0))
    assert (found.kl, found.rise, found.excess) == (0.0, 0.0, -1.0)
    assert found.within_bounds


def test_the_nearest_bound_counts():
    cost = Cost(np.array([0.2, 0.2]), np.array([0.05, 0.05]))
    assert Bound(kl=0.1).excess(cost) == pytest.approx(1.0)
    assert Bound(rise=0.1).excess(cost) == pytest.approx(-0.5)
    assert Bound(kl=0.1, rise=0.1).excess(cost) == pytest.approx(1.0)
    assert Bound().excess(cost) == -1.0
    assert Bound(kl=0.0).excess(cost) == math.inf
    nothing = Cost(np.zeros(3), np.zeros(3))
    assert Bound(kl=0.0, rise=0.0).excess(nothing) == 0.0
    assert Bound(harmless=0.0).excess(nothing, -0.01) == 0.0
    assert Bound(harmless=0.0).excess(nothing, 0.01) == math.inf
    assert Bound(rise=0.1).excess(Cost(np.array([np.nan]), np.array([np.nan]))) == np.inf
    assert Bound(kl=0.5, harmless=0.1).excess(cost, 0.15) == pytest.approx(0.5)
    assert Bound(kl=0.5, harmless=0.1).excess(cost) == pytest.approx(-0.6)


def nats(lm, texts) -> tuple[list[float], list[int]]:
    """−log p of each text behind its prompt, read alone, and its tokens."""
    losses = []
    for one in texts:
        ids = torch.tensor([[*one.prompt_ids, *one.ids]])
        with torch.no_grad():
            logp = lm.model(ids, use_cache=False).logits[0].double().log_softmax(-1)
        first = len(one.prompt_ids)
        losses.append(-sum(logp[place - 1, ids[0, place]].item() for place in range(first, ids.shape[1])))
    return losses, [len(one.ids) for one in texts]


def with_harmless(lm, bound):
    asked = objective(lm, bound)
    texts = [one for one in generate(lm, TEXTS, new_tokens=5) if one.ids]
    plain = [one.text for one in generate(lm, TEXTS, new_tokens=6)]
    return replace(asked, harmless=HarmlessText.read(lm, texts), plain_texts=plain), texts


def test_the_rise_on_harmless_texts_is_that_of_texts_read_one_by_one(lm):
    asked, texts = with_harmless(lm, Bound())
    point = Point("learned", 0.8)
    before, tokens = nats(lm, texts)
    with asked.family.edit(point).on(lm):
        after, _ = nats(lm, texts)
    rise = (sum(after) - sum(before)) / sum(tokens)
    assert abs(rise) > 1e-3
    assert asked.try_out(point).harmless == pytest.approx(rise, abs=1e-4)
    assert objective(lm, Bound()).try_out(point).harmless is None


def test_an_edit_that_costs_too_much_on_harmless_texts_writes_nothing(llama, monkeypatch):
    asked, _ = with_harmless(llama, Bound())
    rise = asked.try_out(Point("learned", 1.0)).harmless
    assert rise > 0
    monkeypatch.setattr("dposcope.search.trials.generate", None)
    found = replace(asked, bound=Bound(harmless=rise / 2)).try_out(Point("learned", 1.0))
    assert found.excess == pytest.approx(1.0)
    assert found.written is None
    assert found.harmless == pytest.approx(rise)


def test_the_phrase_is_the_one_that_rose_most():
    asked = Objective(
        None, None, None, ["a", "b", "c", "d"], LENGTH, Bound(), plain_texts=["x y", "so it is", "z", "w"]
    )
    found = asked.measured([Continuation([2], [3], text) for text in ("so it is", "so it is", "So, it is", "w")])
    assert found.phrase == "so it is"
    assert found.phrase_rise == pytest.approx(0.5)
    assert asked.measured([Continuation([2], [3], text) for text in asked.plain_texts]).phrase == ""
    bound = TextBound(replace(found, phrase="", phrase_rise=0.0), 0.5, 0.06)
    assert bound.excess(found)["phrase"] == pytest.approx(0.44)
    assert not bound.allows(found)
    assert bound.allows(replace(found, phrase_rise=0.06))


def test_relevance_is_what_the_plain_model_finds_in_the_texts_of_the_edit(llama):
    asked = replace(objective(llama, Bound()), with_relevance=True)
    point = Point("learned", 1.0)
    found = asked.try_out(point).written
    with in_effect(llama, asked.family.edit(point)):
        texts = generate(llama, TEXTS, new_tokens=6, batch_size=3)
        by_the_edited = relevance(llama, texts).estimate.mean
    wanted = relevance(llama, texts).estimate
    assert found.relevance == pytest.approx(wanted.mean, abs=1e-5)
    assert found.relevance_low == pytest.approx(wanted.low, abs=1e-5)
    assert abs(by_the_edited - wanted.mean) > 1e-3
    assert objective(llama, Bound()).try_out(point).written.relevance is None


def test_texts_without_a_token_have_no_relevance(llama):
    asked = replace(objective(llama, Bound()), with_relevance=True)
    found = asked.measured([Continuation([2, 5], [], "")] * 3)
    assert (found.relevance, found.relevance_low) == (0.0, 0.0)


def test_a_share_of_the_relevance_must_be_kept_where_there_is_any():
    plain = Written(0.3, 0.3, 0.3, 0.1, 0.5, 0.15, relevance=0.8, relevance_low=0.6)
    bound = TextBound(plain, least_relevance=0.7)
    assert bound.excess(replace(plain, relevance=0.5))["relevance"] == pytest.approx(0.06)
    assert [bound.allows(replace(plain, relevance=kept)) for kept in (0.55, 0.57, 2.0)] == [False, True, True]
    assert bound.allows(replace(plain, relevance=None))
    unsure = TextBound(replace(plain, relevance_low=-0.1), least_relevance=0.7)
    assert unsure.allows(replace(plain, relevance=0.0))
    assert TextBound(plain).allows(replace(plain, relevance=0.01))
