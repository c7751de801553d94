"""Mixtures whose experts are computed, weighed or projected in a way of their own, against loops over tokens."""

import copy
from dataclasses import replace

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.interventions.paired.interchange import Interchange, Parts
from dposcope.interventions.paired.mediation import mediation
from dposcope.model.batches import batches
from dposcope.model.generate import generate
from dposcope.model.hooks import hooked, mlp_sites, neuron_sites
from dposcope.model.language_model import LanguageModel
from dposcope.model.mixtures import experts
from dposcope.model.size import model_size
from dposcope.neurons.activations import collect_means
from dposcope.neurons.contributions import contributions
from dposcope.neurons.sets import NeuronSet
from dposcope.shipping.checkpoint import fold_checkpoint
from helpers.changes import tuned_copy
from helpers.families import TEXTS, assert_close, bits, hook_count, logits_of, random_direction, random_gains
from helpers.own_mixtures import EXPERTS, OWN, WIDTH, own_mixture, run
from helpers.quantised import by_hand, in_bytes

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]
CLOSE = 5e-5
"""Of the largest value: float32, added up in another order."""


@pytest.fixture(params=OWN)
def family(request):
    """Each in turn, whose model stays as it is."""
    model = own_mixture(request.param).model
    before = bits(model)
    yield request.param
    assert bits(model) == before
    assert hook_count(model) == 0
    assert not any("forward" in vars(module) for module in model.modules())


def test_hooks_see_the_loops_activations_and_weights_and_change_no_bit(family):
    lm, kind = own_mixture(family), OWN[family]
    expected, plain = run(lm, family, IDS), logits_of(lm, IDS)
    seen, weights, written = (torch.zeros_like(one) for one in (expected.values, expected.weights, expected.written))

    def look(block, columns):
        def change(activations, frame):
            seen[block, :, columns] = activations[0]
            by = frame.routing.weights[0].repeat_interleave(WIDTH, 1)[:, : activations.shape[-1]]
            weights[block, :, columns] = by
            return activations.clone()

        return change

    def add(block):
        def look_on(output, _frame):
            written[block] += output[0]

        return look_on

    sites = [(site, look(block, site.columns)) for block in range(lm.n_blocks) for site in neuron_sites(lm, block)]
    sites += [(site, add(block)) for block in range(lm.n_blocks) for site in mlp_sites(lm, block)]
    with hooked(lm, sites):
        assert torch.equal(logits_of(lm, IDS), plain)
    assert_close(plain, expected.logits, CLOSE)
    assert_close(seen, expected.values, CLOSE)
    assert_close(weights, expected.weights, CLOSE)
    assert_close(written, expected.written, CLOSE)
    for block in kind.with_mlp(lm):
        assert_close(lm.value_vectors(block).double(), kind.vectors(lm, block), 1e-6)
    assert (lm.experts.routed, lm.experts.width) == (EXPERTS, WIDTH)
    assert model_size(lm.model).mlp == lm.d_mlp


def test_gains_and_an_ablation_are_those_of_the_loop_and_fold(family, tmp_path):
    lm = own_mixture(family)
    values, direction = random_gains(lm), random_direction(lm)
    edit = Edit.of(Gains(values), ablate(direction, weight=0.7))
    with edit.on(lm):
        changed, written = logits_of(lm, IDS), generate(lm, TEXTS, new_tokens=4)
        assert generate(lm, TEXTS, new_tokens=4, batch_size=1, use_cache=False) == written
    assert_close(changed, run(lm, family, IDS, values, direction).logits, CLOSE)
    assert not torch.allclose(changed, logits_of(lm, IDS), atol=1e-2)
    folded = fold(lm, edit)
    assert_close(logits_of(folded, IDS), changed, CLOSE)
    assert generate(folded, TEXTS, new_tokens=4) == written
    lm.save_pretrained(tmp_path / "plain")
    fold_checkpoint(tmp_path / "plain", edit, tmp_path / "folded")
    read = type(lm.model).from_pretrained(tmp_path / "folded").eval()
    assert_close(logits_of(LanguageModel(read, lm.tokenizer), IDS), changed, CLOSE)


def test_means_and_contributions_are_those_of_the_loop(family):
    base, texts = own_mixture(family), TEXTS[2:5]
    tuned, w = tuned_copy(base, strength=0.05), random_direction(base)
    less: list[torch.Tensor] = []
    means = [collect_means(lm, texts, new_tokens=4) for lm in (base, tuned)]
    for lm, found in zip((base, tuned), means, strict=True):
        values, weights = [], []
        for one in generate(lm, texts, new_tokens=4, batch_size=1):
            start = len(one.prompt_ids) - 1
            here = slice(start, start + min(4, len(one.ids) + 1))
            seen = run(lm, family, one.prompt_ids + one.ids)
            values.append(seen.values[:, here].double())
            weights.append(seen.weights[:, here].double())
        m, r = torch.cat(values, 1), torch.cat(weights, 1)
        counts = (r != 0).sum(1)
        assert torch.equal(found.routed.counts, counts)
        assert_close(found.mean, (m * (r != 0)).sum(1) / counts.clamp(min=1), CLOSE)
        assert_close(found.written, (m * r).mean(1), CLOSE)
        along = torch.zeros(lm.n_blocks, lm.d_mlp, dtype=torch.float64)
        for block in OWN[family].with_mlp(lm):
            along[block] = OWN[family].vectors(lm, block) @ w / w.norm()
        less.append((m * r).mean(1) * along)
    assert_close(contributions(base, tuned, *means, w).total, less[0] - less[1], 2 * CLOSE)


def test_an_interchange_of_neurons_or_mlps_and_mediation_reach_the_experts(family):
    """Only the MLPs of the last block are tuned: with their neurons, the base has the tuned model's logits."""
    lm, kind = own_mixture(family), OWN[family]
    last = lm.n_blocks - 1
    tuned = replace(lm, model=copy.deepcopy(lm.model))
    with torch.no_grad():
        for name, parameter in kind.whole(tuned, last).named_parameters():
            if any(part in name for part in ("up_proj", "v1", "input_linear", "fc1")):
                parameter.mul_(-2)
    expected, mask = logits_of(tuned, IDS), torch.zeros(lm.n_blocks, lm.d_mlp, dtype=torch.bool)
    mask[last] = True if lm.here is None else lm.here[last]
    for parts in (Parts(NeuronSet(mask)), Parts(mlps=frozenset([last]))):
        with Interchange(tuned, parts).on(lm):
            assert_close(logits_of(lm, IDS), expected, CLOSE)
    assert not torch.allclose(logits_of(lm, IDS), expected, atol=1e-3)
    found = mediation(lm, tuned, generate(lm, TEXTS[:2], new_tokens=3, stop_at_end=False))
    assert not found.change[:last].any()
    assert found.change[last].any()
    assert_close(found.own, found.change, 1e-6)


@pytest.mark.parametrize("name", ["beam", "laguna", "minimax_m3_vl_text"])
def test_an_unknown_factor_on_what_experts_write_is_refused(name, monkeypatch):
    monkeypatch.setattr(experts, "_SCALED", {})
    lm = own_mixture(name)
    with pytest.raises(
        DposcopeError, match=r"does more than to (pass on what its experts write|add routed and shared)"
    ):
        _ = replace(lm).layout


def test_attention_that_is_a_mixture_has_no_heads():
    lm = own_mixture("jetmoe")
    with pytest.raises(DposcopeError, match="attention of tiny-jetmoe is a mixture of experts itself: leave out what"):
        _ = lm.n_heads
    size = model_size(lm.model)
    named = lm.model.named_parameters()
    assert size.idle == sum(one.numel() // EXPERTS * 2 for name, one in named if name.endswith("_linear.weight"))
    assert size.key_width == 4 * 8


def test_experts_that_a_token_of_dbrx_does_not_get_rest():
    lm = own_mixture("dbrx")
    of_experts = sum(one.numel() for name, one in lm.model.named_parameters() if ".experts." in name)
    assert model_size(lm.model).idle == of_experts // 2


def test_texts_to_continue_have_one_length_in_a_batch_where_padding_would_move_what_attention_reads():
    lm, encoded = own_mixture("minimax_m3_vl_text"), [[2, 5], [2, 6, 7], [2, 8], [2, 9, 10, 11], [2, 12]]
    rows = [batch.rows for batch in batches(lm, encoded, batch_size=2, side="left")]
    assert rows == [[3], [1], [0, 2], [4]]
    assert [batch.rows for batch in batches(lm, encoded, batch_size=3, side="right")] == [[3, 1, 0], [2, 4]]


def test_a_quantised_projection_behind_the_experts_is_dequantised_for_their_value_vectors():
    lm = in_bytes(own_mixture("nemotron_h"))
    plain = by_hand(lm)
    for block in OWN["nemotron_h"].with_mlp(lm):
        assert torch.equal(lm.value_vectors(block), plain.value_vectors(block))
    edit = Edit.of(Gains(random_gains(lm)), ablate(random_direction(lm), weight=0.7))
    with edit.on(lm), edit.on(plain):
        assert torch.equal(logits_of(lm, IDS), logits_of(plain, IDS))
    with pytest.raises(DposcopeError, match="are quantised, and an edit does not fold into codes"):
        fold(lm, edit)


def test_codes_of_a_projection_behind_the_experts_are_no_numbers():
    """A quantised layer may be a Linear by its class, as those of bitsandbytes are."""
    lm = own_mixture("nemotron_h")
    other = replace(lm, model=copy.deepcopy(lm.model))
    for block in OWN["nemotron_h"].with_mlp(lm):
        whole = OWN["nemotron_h"].whole(other, block)
        if hasattr(whole, "fc2_latent_proj"):
            whole.fc2_latent_proj = _Codes.of(whole.fc2_latent_proj)
            found = other.value_vectors(block)
            assert_close(found, lm.value_vectors(block), 0.02)
    assert other.quantised


class _Codes(torch.nn.Linear):
    """Weights as int8 times one scale."""

    scale: torch.Tensor

    @classmethod
    def of(cls, like: torch.nn.Linear) -> "_Codes":
        made, weight = cls(like.in_features, like.out_features, bias=False), like.weight.detach()
        made.scale = weight.abs().max() / 127
        made.weight = torch.nn.Parameter((weight / made.scale).round().to(torch.int8), requires_grad=False)
        return made

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(inputs, self.weight.float() * self.scale)
