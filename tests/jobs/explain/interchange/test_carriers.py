"""Which neurons carry the effect: rankings, and the curve against runs written out by hand."""

import json
from dataclasses import replace

import pytest
import torch

from dposcope.evaluation.scorers import function_scorer
from dposcope.interventions.paired.attribution import attribution
from dposcope.interventions.paired.interchange import Interchange, Parts
from dposcope.jobs.explain.interchange.carriers import FRACTIONS, RANKINGS, Rankings, find_carriers
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.ingredients.data import read_data
from dposcope.jobs.ingredients.job import Job
from dposcope.jobs.opening import open_run
from dposcope.model.generate import Continuation
from dposcope.model.load import load
from dposcope.neurons.activations import collect_means
from dposcope.neurons.contributions import contributions
from dposcope.neurons.sets import NeuronSet
from helpers.changes import tuned_copy
from helpers.families import random_direction
from helpers.jobs import always_toxic, make_job

STREAM = torch.Generator().manual_seed(2)
EFFECT = torch.randn(3, 40, generator=STREAM, dtype=torch.float64)
DELTA = torch.randn(3, 40, generator=STREAM, dtype=torch.float64)
ALL = NeuronSet.all(3, 40)


def test_rankings_take_the_first_of_each_order():
    rankings = Rankings(EFFECT, DELTA, 0, ALL)
    worst = sorted(EFFECT.flatten().tolist())[:12]
    assert sorted(EFFECT[rankings.first("attribution", 0.1).mask].tolist()) == worst
    most = sorted(DELTA.flatten().tolist())[-12:]
    assert sorted(DELTA[rankings.first("contribution", 0.1).mask].tolist()) == most
    assert {len(rankings.first(name, 0.1)) for name in RANKINGS} == {12}
    assert len(rankings.first("attribution", 1e-6)) == 1
    assert rankings.first("random", 0.1) == Rankings(EFFECT, DELTA, 0, ALL).first("random", 0.1)
    assert rankings.first("random", 0.1) != Rankings(EFFECT, DELTA, 1, ALL).first("random", 0.1)
    # Larger fractions hold the smaller ones, so that a curve follows one order.
    assert len(rankings.first("random", 0.1) - rankings.first("random", 0.2)) == 0


def test_matched_neurons_have_contributions_of_like_size():
    rankings = Rankings(EFFECT, DELTA, 0, ALL)
    first, matched = rankings.first("attribution", 0.5), rankings.first("matched", 0.5)
    assert first != matched
    ours, theirs = (sorted(DELTA.abs()[one.mask].tolist()) for one in (first, matched))
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 0.6


@pytest.fixture
def job(tmp_path):
    made = make_job(tmp_path / "job")
    settings = ExplainSettings(**made.settings())
    data, lm = read_data(settings), load(str(made.model), dtype="float32")
    half = function_scorer(lambda texts: [0.9 if sum(map(ord, text)) % 2 else 0.1 for text in texts], "parity")
    data = replace(data, report=replace(data.report, scorer=half))
    with open_run(tmp_path / "out", "test", {}) as run:
        yield Job(run, lm, data)


def change_of(job, other):
    before, after = (collect_means(lm, job.data.learn, new_tokens=4) for lm in (job.lm, other))
    return contributions(job.lm, other, before, after, random_direction(job.lm))


def test_the_curve_is_the_share_of_the_change_of_log_odds(job):
    other = tuned_copy(job.lm)
    change = change_of(job, other)
    found = find_carriers(job, other, change, seed=0, batch_size=4)
    assert {point.ranking for point in found.curve} == set(RANKINGS)
    assert [point.fraction for point in found.curve][: len(FRACTIONS)] == list(FRACTIONS)
    toxic, harmless = _texts(job, half=1)
    assert found.texts == (len(toxic), len(harmless))
    base, tuned = log_odds(job.lm, toxic, harmless), log_odds(other, toxic, harmless)
    for place in (0, 4, len(FRACTIONS) + 5, -1):
        point = found.curve[place]
        neurons = found.rankings.first(point.ranking, point.fraction)
        with Interchange(other, Parts(neurons)).on(job.lm):
            here = log_odds(job.lm, toxic, harmless)
        assert point.share == pytest.approx((here - base) / (tuned - base), rel=1e-3, abs=1e-4)
        assert point.neurons == len(neurons)
    ranked = attribution(job.lm, other, *_texts(job, half=0), batch_size=3)
    assert torch.allclose(found.rankings.effect, ranked.effect, rtol=1e-3, atol=1e-6)
    again = find_carriers(job, other, change, seed=0, batch_size=4)
    assert list(again.curve) == list(found.curve)


def _texts(job, half):
    """Read the stored samples again, by hand."""
    stored = json.loads((job.run.folder / "texts.json").read_text())
    sides = ([], [])
    for one in stored:
        if one["ids"] and one["prompt"] % 2 == half:
            sides[0 if one["score"] >= 0.5 else 1].append(Continuation(one["prompt_ids"], one["ids"], ""))
    return sides


def log_odds(lm, toxic, harmless):
    @torch.no_grad()
    def one(text):
        logits = lm.model(input_ids=torch.tensor([[*text.prompt_ids, *text.ids]]), use_cache=False).logits[0].double()
        start = len(text.prompt_ids)
        return float(sum(logits[start + k - 1].log_softmax(-1)[token] for k, token in enumerate(text.ids)))

    return sum(map(one, toxic)) / len(toxic) - sum(map(one, harmless)) / len(harmless)


def test_without_texts_of_both_kinds_nothing_is_ranked(job):
    other = tuned_copy(job.lm)
    said = []
    job.run.reporter.note = said.append
    scorer = function_scorer(always_toxic, "always")
    alone = replace(job, data=replace(job.data, report=replace(job.data.report, scorer=scorer)))
    assert find_carriers(alone, other, change_of(job, other), seed=0, batch_size=4) is None
    assert any("no neurons are ranked" in line for line in said)
