"""Attribution patching against finite differences of runs written out by hand."""

import copy
from dataclasses import replace

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import edited
from dposcope.interventions.gains import Gains
from dposcope.interventions.paired.attribution import attribution
from dposcope.model.generate import Continuation
from helpers import mixtures
from helpers.families import MIXTURES, bits, hook_count, random_gains, tiny, trace

TOXIC = [Continuation([2, 40, 41], [55, 60, 61, 70], ""), Continuation([2, 33, 12, 90, 17], [44], "")]
HARMLESS = [
    Continuation([2, 40, 41], [50, 51], ""),
    Continuation([2, 9], [8, 7, 6, 30, 31], ""),
    Continuation([2, 70], [71], ""),
]


def double(lm):
    return replace(lm, model=copy.deepcopy(lm.model).double())


@pytest.fixture
def in_double(monkeypatch):
    """Models round norms and attention to float32, whatever their own type; a finite difference would measure that."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def near(lm, size=0.02, seed=7):
    """A second model close by, so that a first order says much."""
    other = replace(lm, model=copy.deepcopy(lm.model))
    stream = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.model.parameters():
            noise = torch.randn(parameter.shape, generator=stream, dtype=torch.float64)
            parameter.add_(noise.to(parameter.dtype), alpha=size * float(parameter.std()))
    return other


def plain_logits(lm, ids, rule):
    return trace(lm, ids, neurons=rule).logits


def log_odds(lm, rule=None, run=plain_logits):
    """Mean log-probability of the toxic texts, less that of the harmless ones: text by text, token by token."""

    def one(text):
        ids = [*text.prompt_ids, *text.ids]
        logits = run(lm, ids, None if rule is None else rule(ids))
        total = 0.0
        for place, token in enumerate(text.ids):
            row = logits[len(text.prompt_ids) + place - 1].double()
            total += float(row[token] - row.exp().sum().log())
        return total

    return sum(map(one, TOXIC)) / len(TOXIC) - sum(map(one, HARMLESS)) / len(HARMLESS)


@pytest.mark.usefixtures("in_double")
def test_each_neurons_effect_is_the_slope_of_its_interchange(lm):
    """A central difference: one neuron moved a little towards the other model's values, at all positions at once."""
    base = double(lm)
    other, step = near(base), 1e-4
    found = attribution(base, other, TOXIC, HARMLESS, batch_size=2)
    assert found.log_odds == pytest.approx(log_odds(base), abs=1e-5)

    def moved(block, neuron, share):
        def rule(ids):
            plain, theirs = trace(base, ids).neurons, trace(other, ids).neurons

            def at(where, m):
                if where != block:
                    return m
                m = m.clone()
                m[:, neuron] += share * (theirs[block][:, neuron] - plain[block][:, neuron])
                return m

            return at

        return log_odds(base, rule)

    for block, neuron in ((0, 0), (0, 7), (1, 3), (base.n_blocks - 1, 5)):
        slope = (moved(block, neuron, step) - moved(block, neuron, -step)) / (2 * step)
        assert float(found.effect[block, neuron]) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def mixture_logits(lm, ids, rule):
    return mixtures.run(lm, ids, rule).logits


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("family", MIXTURES)
def test_in_a_mixture_the_slope_is_over_the_tokens_that_were_sent(family):
    base = double(mixtures.shared_mixture(family))
    base.model.set_experts_implementation("batched_mm")  # the other way knows no float64
    other, step, width = near(base), 1e-4, base.experts.width
    found = attribution(base, other, TOXIC, HARMLESS, batch_size=2)
    assert found.log_odds == pytest.approx(log_odds(base, run=mixture_logits), abs=1e-5)

    def moved(block, neuron, share):
        expert, index = divmod(neuron, width)

        def rule(ids):
            plain, theirs = (mixtures.run(lm, ids).activations for lm in (base, other))

            def at(where, token, chosen, m):
                if (where, chosen) != (block, expert):
                    return m
                m, place = m.clone(), (where, token, chosen)
                end = theirs[place][index] if place in theirs else 0.0
                m[index] += share * (end - plain[place][index])
                return m

            return at

        return log_odds(base, rule, mixture_logits)

    seen = []
    for block, neuron in ((0, 0), (0, width + 7), (1, 3 * width + 1), (base.n_blocks - 1, 2 * width + 5)):
        slope = (moved(block, neuron, step) - moved(block, neuron, -step)) / (2 * step)
        assert float(found.effect[block, neuron]) == pytest.approx(slope, rel=1e-5, abs=1e-8)
        seen.append(slope)
    assert max(map(abs, seen)) > 1e-4, "nothing to see"


def test_batches_add_up_and_nothing_is_left(lm):
    base, other = double(lm), near(double(lm))
    before = bits(base.model), bits(other.model)
    wants = [parameter.requires_grad for parameter in base.model.parameters()]
    calls = []
    whole = attribution(base, other, TOXIC, HARMLESS, batch_size=5)
    single = attribution(base, other, TOXIC, HARMLESS, batch_size=1, progress=lambda *at: calls.append(at))
    assert torch.allclose(whole.effect, single.effect, rtol=1e-4, atol=1e-7)
    assert calls == [(done, 5) for done in range(1, 6)]
    assert (bits(base.model), bits(other.model)) == before
    assert hook_count(base.model) == hook_count(other.model) == 0
    assert [parameter.requires_grad for parameter in base.model.parameters()] == wants
    assert all(parameter.grad is None for parameter in base.model.parameters())


def test_a_model_beside_itself_has_no_effect(lm):
    assert torch.equal(attribution(lm, lm, TOXIC, HARMLESS).effect, torch.zeros(lm.n_blocks, lm.d_mlp).double())


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("block", [0, 1])
def test_one_blocks_effects_add_up_to_a_small_edit_of_it(lm, block):
    """Within a block no neuron acts on another, so the sum is the slope of the whole block's edit."""
    base, size = double(lm), 1e-4
    change = torch.zeros(base.n_blocks, base.d_mlp)
    change[block] = random_gains(base)[block] - 1

    def with_gains(share):
        return log_odds(base, lambda _ids: lambda at, m: m * (1 + share * change[at].double()))

    slope = (with_gains(size) - with_gains(-size)) / (2 * size)
    with edited(base, Edit(Gains(1 + change))) as other:
        found = attribution(base, other, TOXIC, HARMLESS).effect
    assert float(found[block].sum()) == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_what_has_no_text_is_refused(llama):
    other = tiny("llama", seed=9)
    with pytest.raises(DposcopeError, match="give at least one of each"):
        attribution(llama, other, [], HARMLESS)
    with pytest.raises(DposcopeError, match="has no token"):
        attribution(llama, other, [Continuation([2], [], "")], HARMLESS)


def test_a_callers_inference_mode_does_not_take_the_gradient(llama):
    other = tiny("llama", seed=9)
    expected = attribution(llama, other, TOXIC, HARMLESS)
    with torch.inference_mode():
        found = attribution(llama, other, TOXIC, HARMLESS)
    assert torch.equal(found.effect, expected.effect)
    assert not found.effect.is_inference()
