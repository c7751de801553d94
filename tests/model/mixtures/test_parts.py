"""Shared experts and dense blocks among mixtures, against loops over tokens and neurons."""

import copy
from dataclasses import replace

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.interventions.paired.attribution import attribution
from dposcope.interventions.paired.interchange import Interchange, Parts
from dposcope.interventions.paired.mediation import mediation
from dposcope.interventions.steer import Steer
from dposcope.model.generate import generate
from dposcope.model.hooks import hooked, mlp_sites, neuron_site, neuron_sites
from dposcope.model.language_model import LanguageModel
from dposcope.model.layout import table
from dposcope.model.layout.table import register_layout
from dposcope.model.mixtures.experts import ExpertSizes
from dposcope.neurons.activations import collect_means
from dposcope.neurons.contributions import contributions
from dposcope.neurons.folds import collect_by_fold
from dposcope.neurons.sets import NeuronSet
from dposcope.neurons.traces import trace
from dposcope.shipping.checkpoint import fold_checkpoint
from helpers.changes import tuned_copy
from helpers.families import TEXTS, assert_close, bos_tokenizer, hook_count, logits_of, random_direction, random_gains
from helpers.shared_experts import SHARED, columns_of, naive, shared_mixture_of, vectors

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]
CLOSE = 2e-5
"""Of the largest value: float32, added up in another order."""


def predicting(one):
    """Positions that predict what was written, the end of the text too; of at most four tokens."""
    start = len(one.prompt_ids) - 1
    return slice(start, start + min(4, len(one.ids) + 1))


@pytest.fixture
def registry(monkeypatch):
    """The table, as it was again afterwards."""
    monkeypatch.setattr(table, "_LAYOUTS", dict(table._LAYOUTS))


@pytest.fixture(params=SHARED)
def family(request):
    return request.param


@pytest.fixture(params=[name for name, kind in SHARED.items() if kind.shared])
def with_shared(request):
    return request.param


def test_columns_are_routed_experts_then_shared_ones_or_a_dense_block(family):
    lm, kind = shared_mixture_of(family), SHARED[family]
    columns = columns_of(kind)
    assert lm.experts == ExpertSizes(columns // kind.width, kind.width, kind.experts)
    assert lm.d_mlp == columns
    widths = [kind.own if block in kind.dense else kind.experts * kind.width + kind.shared for block in range(3)]
    assert lm.here.tolist() == [[place < width for place in range(columns)] for width in widths]
    assert lm.n_neurons == sum(widths) == len(NeuronSet.of(lm))
    for block in range(3):
        assert torch.equal(lm.value_vectors(block).double(), vectors(lm, family, block))
    assert lm.neuron_name(2, 4 * 8 + 9) == "2.5.1"
    told = " ".join(lm.columns.told())
    assert ("Experts from number 4 on are shared" in told) == (kind.shared > 0)
    dense = ", ".join(map(str, kind.dense))
    assert (f"Dense blocks ({dense}) count" in told) == bool(kind.dense)


def test_hooks_see_the_loops_activations_and_weights_and_change_no_bit(family):
    lm, expected = shared_mixture_of(family), naive(shared_mixture_of(family), family, IDS)
    seen, weights = torch.zeros_like(expected.values), torch.zeros_like(expected.weights)
    before = logits_of(lm, IDS)

    def keep(block, columns):
        def look(activations, frame):
            seen[block, :, columns] = activations[0]
            by = frame.routing.weights[0].repeat_interleave(8, 1)[:, : activations.shape[-1]]
            weights[block, :, columns] = by
            assert torch.equal(frame.routing.sent[0], frame.routing.weights[0] != 0)
            return activations.clone()

        return look

    sites = [(site, keep(block, site.columns)) for block in range(3) for site in neuron_sites(lm, block)]
    written = {}
    sites += [
        (site, lambda out, _, block=block: written.update({block: written.get(block, 0) + out[0]}))
        for block in range(3)
        for site in mlp_sites(lm, block)
    ]
    with hooked(lm, sites):
        assert torch.equal(logits_of(lm, IDS), before)
    assert_close(before, expected.logits, CLOSE)
    assert_close(seen, expected.values, CLOSE)
    assert_close(weights, expected.weights, CLOSE)
    for block in range(3):
        assert_close(written[block].double(), expected.written[block], CLOSE)
    assert hook_count(lm.model) == 0


def test_gains_of_any_neuron_are_those_of_the_loop_and_fold(family, tmp_path):
    lm = shared_mixture_of(family)
    values = random_gains(lm)
    edit = Edit.of(Gains(values), ablate(random_direction(lm), weight=0.7))
    with Gains(values).on(lm):
        assert_close(logits_of(lm, IDS), naive(lm, family, IDS, values).logits, CLOSE)
    with edit.on(lm):
        changed, written = logits_of(lm, IDS), generate(lm, TEXTS, new_tokens=4)
        assert generate(lm, TEXTS, new_tokens=4, batch_size=1, use_cache=False) == written
    folded = fold(lm, edit)
    assert_close(logits_of(folded, IDS), changed, CLOSE)
    assert generate(folded, TEXTS, new_tokens=4) == written
    lm.save_pretrained(tmp_path / "plain")
    fold_checkpoint(tmp_path / "plain", edit, tmp_path / "folded")
    read = type(lm.model).from_pretrained(tmp_path / "folded").eval()
    assert_close(logits_of(LanguageModel(read, lm.tokenizer), IDS), changed, CLOSE)


def test_gains_of_shared_experts_alone_hook_only_them(with_shared):
    lm, kind = shared_mixture_of(with_shared), SHARED[with_shared]
    values = torch.ones(3, lm.d_mlp)
    values[1, kind.experts * kind.width + 1] = 0.3
    assert [site.name for site, _ in Gains(values).changes(lm)] == ["neurons.1.shared"]
    with pytest.raises(DposcopeError, match=r"neurons of block 1 of tiny-.* are in two places; use neuron_sites"):
        neuron_site(lm, 1)


def test_means_are_over_the_tokens_that_each_neuron_gets(family):
    lm, texts = shared_mixture_of(family), TEXTS[2:6]
    found = collect_by_fold(lm, texts, 2, new_tokens=4)
    rows = []
    for one in generate(lm, texts, new_tokens=4, batch_size=1):
        ids = one.prompt_ids + one.ids
        seen = naive(lm, family, ids)
        place = predicting(one)
        rows.append((seen.values[:, place].double(), seen.weights[:, place].double()))
    for means, parts in ((found.whole, rows), (found.folds[1], rows[1::2])):
        values, weights = (torch.cat(one, 1) for one in zip(*parts, strict=True))
        counts = (weights != 0).sum(1)
        assert means.count == values.shape[1]
        assert torch.equal(means.routed.counts, counts)
        assert_close(means.mean, values.sum(1) / counts.clamp(min=1), CLOSE)
        assert_close(means.written, (values * weights).mean(1), CLOSE)
        assert_close(means.written_second_moment, (values * weights).square().mean(1), 10 * CLOSE)
    assert torch.equal(found.whole.here, lm.here)
    assert found.whole.to_polars().height == lm.n_neurons


def test_contributions_add_up_to_how_much_less_the_blocks_write(family):
    base = shared_mixture_of(family)
    tuned, w = tuned_copy(base, strength=0.05), random_direction(base)
    w = w / w.norm()
    means = [collect_means(lm, TEXTS[:4], new_tokens=4) for lm in (base, tuned)]
    change = contributions(base, tuned, *means, w)
    less = torch.zeros(2, 3, dtype=torch.float64)
    for side, lm in enumerate((base, tuned)):
        rows = []
        for one in generate(lm, TEXTS[:4], new_tokens=4, batch_size=1):
            ids = one.prompt_ids + one.ids
            rows.append(naive(lm, family, ids).written[:, predicting(one)] @ w)
        less[side] = torch.cat(rows, 1).mean(1)
    assert_close(change.total.sum(1), less[0] - less[1], 5 * CLOSE)
    assert not change.total[~base.here].any()
    assert change.neurons == change.to_polars().height == base.n_neurons


def test_traces_and_interchange_reach_shared_experts(with_shared):
    family = with_shared
    lm, kind = shared_mixture_of(family), SHARED[family]
    first = lm.d_mlp + kind.experts * kind.width
    numbers = [0, first + 2, first - 1, 2 * lm.d_mlp + 3]
    found, seen = torch.from_numpy(trace(lm, [IDS], numbers)), naive(lm, family, IDS).values
    for number, row in zip(numbers, found, strict=True):
        assert_close(row, seen[number // lm.d_mlp, :, number % lm.d_mlp], CLOSE)
    # Block 2's shared experts alone are tuned: with their neurons, the base has the tuned model's logits.
    tuned = replace(lm, model=copy.deepcopy(lm.model))
    kind.change_up(kind.shared_mlp(tuned, 2), -2)
    expected, mask = logits_of(tuned, IDS), torch.zeros(3, lm.d_mlp, dtype=torch.bool)
    mask[2, kind.experts * kind.width :] = True
    for parts in (Parts(NeuronSet(mask)), Parts(NeuronSet.of(lm)), Parts(mlps=frozenset([2]))):
        with Interchange(tuned, parts).on(lm):
            assert_close(logits_of(lm, IDS), expected, CLOSE)
    assert not torch.allclose(logits_of(lm, IDS), expected, atol=1e-3)


def test_attribution_and_mediation_of_a_shared_neuron_are_naive(with_shared):
    """The shared expert's projection of block 2 is tuned before its neurons: only they change, by themselves."""
    family = with_shared
    base, kind = shared_mixture_of(family), SHARED[family]
    tuned = replace(base, model=copy.deepcopy(base.model))
    kind.change_up(kind.shared_mlp(tuned, 2), 1.001)
    written = generate(base, TEXTS[:4], new_tokens=4, stop_at_end=False)
    found = mediation(base, tuned, written)
    changed = found.change > 0
    first = kind.experts * kind.width
    assert changed.nonzero().tolist() == [[2, first + place] for place in range(kind.shared)]
    assert_close(found.own, found.change, 1e-9)
    effect = attribution(base, tuned, written[:2], written[2:])
    assert not effect.effect[~changed].any()
    values = torch.ones(3, base.d_mlp)
    values[2, first : first + kind.shared] = 1.001

    def log_odds(gains):
        total = 0.0
        for place, one in enumerate(written):
            ids = one.prompt_ids + one.ids
            told = naive(base, family, ids, gains).logits.double().log_softmax(-1)
            own = sum(told[len(one.prompt_ids) - 1 + at, token] for at, token in enumerate(one.ids))
            total += float(own) * (0.5 if place < 2 else -0.5)
        return total

    assert effect.log_odds == pytest.approx(log_odds(None), abs=1e-4)
    assert float(effect.effect.sum()) == pytest.approx(log_odds(values) - log_odds(None), abs=5e-5)


def test_what_an_mlp_writes_is_steered_once_where_two_modules_write_it():
    lm = shared_mixture_of("granitemoehybrid")
    vector = random_direction(lm).float()
    with Steer(vector, 0.5, block=1, site="mlp").on(lm):
        steered = logits_of(lm, IDS)
    mixture = lm.model.model.layers[1].block_sparse_moe
    handle = mixture.register_forward_hook(lambda _module, _args, output: output - 0.5 * vector)
    expected = logits_of(lm, IDS)
    handle.remove()
    assert_close(steered, expected, CLOSE)
    assert not torch.allclose(steered, logits_of(lm, IDS), atol=1e-3)


def test_shared_experts_in_two_places_are_refused():
    model = copy.deepcopy(shared_mixture_of("granitemoehybrid").model)
    for layer in model.model.layers:
        layer.block_sparse_moe.shared_expert = copy.deepcopy(layer.shared_mlp)
    with pytest.raises(DposcopeError, match="granitemoehybrid is a mixture of an unknown kind"):
        _ = LanguageModel(model, bos_tokenizer()).layout


def again(model, **changes):
    """A layout of Granite, as a user may register it: the model is then looked at as one that nobody knows."""
    register_layout("granitemoehybrid", replace(table._OWN["granitemoehybrid"], **changes))
    return LanguageModel(model, bos_tokenizer())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shared_experts_apart_are_found_in_any_order_of_paths(registry, dtype):
    lm = shared_mixture_of("granitemoehybrid")
    model = copy.deepcopy(lm.model).to(dtype)
    other = again(model, mlp_out=("shared_mlp.output_linear", "block_sparse_moe.experts"))
    assert other.mlp_outs == [layer.block_sparse_moe.experts for layer in model.model.layers]
    assert [len(parts) for parts in other.columns.parts] == [2, 2, 2]
    assert other.d_mlp == lm.d_mlp


@pytest.mark.parametrize("factor", [0.5, 0.0])
def test_shared_experts_apart_that_are_not_added_as_they_are_are_refused(registry, factor):
    model = copy.deepcopy(shared_mixture_of("granitemoehybrid").model)
    _ = again(model).layout
    shared = model.model.layers[2].shared_mlp
    inner = shared.forward
    shared.forward = lambda states: factor * inner(states)
    with pytest.raises(DposcopeError, match="granitemoehybrid does more than to add routed and shared experts up"):
        _ = again(model).layout


def test_what_does_more_than_to_add_experts_up_is_refused():
    model = copy.deepcopy(shared_mixture_of("deepseek_v3").model)
    inner = model.model.layers[1].mlp.forward
    model.model.layers[1].mlp.forward = lambda states: 2 * inner(states)
    with pytest.raises(DposcopeError, match="deepseek_v3 does more than to add routed and shared experts up"):
        _ = LanguageModel(model, bos_tokenizer()).layout
