"""Experts of a mixture: hooks see and change what a loop over tokens and experts computes, and leave nothing behind."""

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.assign import Assign
from dposcope.interventions.gains import Gains
from dposcope.model.frames import Positions
from dposcope.model.generate import generate
from dposcope.model.hooks import hooked, mlp_sites, neuron_site
from dposcope.model.language_model import LanguageModel
from dposcope.model.mixtures.experts import ExpertSizes
from dposcope.neurons.sets import NeuronSet
from dposcope.neurons.traces import trace
from helpers.families import MIXTURES, TEXTS, assert_close, hook_count, logits_of, random_gains, tiny, without_end
from helpers.mixtures import greedy, inputs_of, run, shared_mixture, table, vectors_of, weights_for

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]
WAYS = ["grouped_mm", "batched_mm"]
CLOSE = 2e-5
"""Of the largest value: float32, added up in another order."""


@pytest.fixture(params=MIXTURES)
def mixture(request) -> LanguageModel:
    return shared_mixture(request.param)


@pytest.fixture(params=WAYS)
def way(request, mixture):
    """Both ways in which transformers may compute the experts."""
    mixture.model.set_experts_implementation(request.param)
    yield request.param
    mixture.model.set_experts_implementation("grouped_mm")


def caught_by_hooks(lm, ids):
    caught = {}

    def keep(block):
        def look(activations, frame):
            caught[block] = (activations[0].clone(), frame.routing)

        return look

    with hooked(lm, [(neuron_site(lm, block), keep(block)) for block in range(lm.n_blocks)]):
        logits = logits_of(lm, ids)
    return caught, logits


def test_hooks_see_what_a_loop_over_tokens_and_experts_computes(mixture, way):
    lm, expected = mixture, run(mixture, IDS)
    caught, logits = caught_by_hooks(lm, IDS)
    assert torch.equal(logits, logits_of(lm, IDS)), "looking changed a bit"
    assert_close(logits, expected.logits, CLOSE)
    read = inputs_of(lm, IDS)
    for block, (activations, routing) in caught.items():
        assert_close(activations, table(lm, expected, block, len(IDS)), CLOSE)
        # From what the router reads in this very pass, so that no rounding of the blocks before adds up.
        weights = weights_for(lm, block, read[block])
        for token in range(len(IDS)):
            for expert in range(lm.experts.count):
                sent = (block, token, expert) in expected.weights
                assert bool(routing.sent[0, token, expert]) == sent
                weight = weights.get((token, expert), 0.0)
                assert float(routing.weights[0, token, expert]) == pytest.approx(weight, abs=1e-6)
    assert len({expert for _, _, expert in expected.weights}) == lm.experts.count, "an expert without a token"


def test_a_neuron_writes_its_activation_times_the_weight_of_its_expert_times_its_vector(mixture):
    lm, expected = mixture, run(mixture, IDS)
    for block in range(lm.n_blocks):
        vectors = torch.cat([vectors_of(lm, block, expert) for expert in range(lm.experts.count)])
        assert torch.equal(lm.value_vectors(block).double(), vectors)
        written = table(lm, expected, block, len(IDS), weighted=True).double() @ vectors
        if lm.model.config.model_type == "gpt_oss":
            for (where, token, expert), weight in expected.weights.items():
                if where == block:
                    written[token] += weight * lm.model.model.layers[block].mlp.experts.down_proj_bias[expert].double()
        shown = {}
        with hooked(lm, [(mlp_sites(lm, block)[0], lambda out, frame, shown=shown: shown.update(out=out[0].double()))]):
            logits_of(lm, IDS)
        assert_close(shown["out"], written, CLOSE)


def test_gains_are_those_of_the_loop(mixture, way):
    lm, values = mixture, random_gains(mixture)
    width = lm.experts.width

    def rule(block, token, expert, m):
        return m * values[block, expert * width : (expert + 1) * width]

    with Gains(values).on(lm):
        changed = logits_of(lm, IDS)
    assert_close(changed, run(lm, IDS, rule).logits, CLOSE)
    assert not torch.allclose(changed, logits_of(lm, IDS), atol=1e-2)


@pytest.mark.parametrize("positions", [Positions.ALL, Positions.FIRST])
def test_constants_are_set_only_where_a_token_was_sent_to_the_expert(mixture, positions):
    lm, width = mixture, mixture.experts.width
    values = torch.randn(lm.n_blocks, lm.d_mlp, generator=torch.Generator().manual_seed(1))
    chosen = NeuronSet(values > 0.5)

    def rule(block, token, expert, m):
        here = slice(expert * width, (expert + 1) * width)
        new = torch.where(chosen.mask[block, here], values[block, here], m)
        return new if positions is Positions.ALL or token == 0 else m

    with Assign(values, chosen, positions=positions).on(lm):
        changed = logits_of(lm, IDS)
    assert_close(changed, run(lm, IDS, rule).logits, CLOSE)


def test_texts_are_those_of_single_naive_passes_in_a_batch_with_a_cache_and_without(mixture):
    lm, values = mixture, 1 + 0.3 * (random_gains(mixture) - 1)
    width = lm.experts.width

    def rule(block, token, expert, m):
        return m * values[block, expert * width : (expert + 1) * width]

    expected = [without_end(lm, greedy(lm, lm.tokenizer(text)["input_ids"], 6, rule)) for text in TEXTS]
    with Gains(values).on(lm):
        together = [one.ids for one in generate(lm, TEXTS, new_tokens=6)]
        alone = [generate(lm, [text], new_tokens=6)[0].ids for text in TEXTS]
        uncached = [one.ids for one in generate(lm, TEXTS, new_tokens=6, use_cache=False)]
    assert together == expected
    assert alone == expected
    assert uncached == expected


def test_a_change_that_changes_nothing_changes_no_bit(mixture, way):
    lm, before = mixture, logits_of(mixture, IDS)
    sites = [neuron_site(lm, block) for block in range(lm.n_blocks)]
    with hooked(lm, [(site, lambda activations, frame: activations.clone()) for site in sites]):
        assert torch.equal(logits_of(lm, IDS), before)
    assert torch.equal(logits_of(lm, IDS), before)


def test_outer_changes_come_first_and_nothing_is_left_after_an_exception(mixture):
    lm, site = mixture, neuron_site(mixture, 1)
    seen = []
    with hooked(lm, [(site, lambda m, frame: m * 3)]), hooked(lm, [(site, lambda m, frame: seen.append(m))]):
        logits_of(lm, IDS)
    first, _ = caught_by_hooks(lm, IDS)
    assert torch.equal(seen[0][0], 3 * first[1][0])
    with pytest.raises(RuntimeError, match="mine"), hooked(lm, [(site, lambda m, frame: m * 3)]):
        raise RuntimeError("mine")
    assert hook_count(lm.model) == 0
    assert all("_apply_gate" not in vars(module) for module in lm.mlp_outs)


def test_the_trace_of_a_neuron_is_its_activation_on_every_token(mixture):
    lm, expected = mixture, run(mixture, IDS)
    numbers = [0, lm.d_mlp - 1, lm.d_mlp + lm.experts.width, 2 * lm.d_mlp + 3]
    found = torch.from_numpy(trace(lm, [IDS], numbers))
    for number, row in zip(numbers, found, strict=True):
        block, place = divmod(number, lm.d_mlp)
        assert_close(row, table(lm, expected, block, len(IDS))[:, place], CLOSE)


def test_names_tell_block_expert_and_index():
    assert ExpertSizes(count=8, width=100, routed=8).name(3, 720) == "3.7.20"
    assert [shared_mixture(family).experts for family in MIXTURES] == [
        ExpertSizes(5, 24, 5),
        ExpertSizes(6, 12, 6),
        ExpertSizes(4, 20, 4),
        ExpertSizes(6, 24, 6),
    ]


def test_a_way_of_computing_experts_without_readable_activations_is_refused():
    lm = tiny("mixtral")
    mend = r"computes its experts by 'eager'.*call model.set_experts_implementation\('grouped_mm'\) first"

    def switched():
        with Gains(random_gains(lm)).on(lm):
            lm.model.set_experts_implementation("eager")
            logits_of(lm, IDS)

    with pytest.raises(DposcopeError, match=mend):
        switched()
    with pytest.raises(DposcopeError, match=mend):
        _ = LanguageModel(lm.model, lm.tokenizer).layout
    assert hook_count(lm.model) == 0
