"""An edited model beside its base: the same function as the edit anywhere else, its gains where activations are."""

import pytest
import torch

from dposcope.data.corpus import Passages
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.conditions.measure import measure
from dposcope.evaluation.scorers import function_scorer
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import EditedModel, edited
from dposcope.interventions.fold import fold
from dposcope.interventions.gains import Gains
from dposcope.model.generate import generate
from dposcope.model.hooks import hooked, neuron_site
from dposcope.neurons.activations import collect_means
from dposcope.neurons.contributions import contributions
from helpers.edits import EDITS, IDS, both_of, gains_of
from helpers.families import TEXTS, assert_close, bits, copied, hook_count, logits_of, random_direction, random_gains
from helpers.jobs import softness


@pytest.fixture(params=EDITS)
def kind(request):
    return request.param


def test_it_is_the_hooked_and_the_folded_model_and_the_base_stays_plain(lm, kind):
    edit = Edit.of(EDITS[kind](lm))
    plain, weights, hooks = logits_of(lm, IDS), bits(lm.model), hook_count(lm.model)
    with edit.on(lm):
        hooked_logits = logits_of(lm, IDS)
        written = [text.ids for text in generate(lm, TEXTS)]
    with edited(lm, edit) as other:
        assert_close(logits_of(other, IDS), hooked_logits)
        assert_close(logits_of(fold(lm, edit), IDS), hooked_logits)
        assert torch.equal(logits_of(lm, IDS), plain)
        assert [text.ids for text in generate(other, TEXTS)] == written
        assert other.fingerprint != lm.fingerprint
    assert (bits(lm.model), hook_count(lm.model)) == (weights, hooks)
    assert torch.equal(logits_of(lm, IDS), plain)
    assert not torch.equal(hooked_logits, plain)


def test_weights_that_it_leaves_alone_are_shared(lm):
    with edited(lm, both_of(lm)) as other:
        mine, theirs = (dict(model.named_parameters()) for model in (lm.model, other.model))
        own = {name for name in mine if mine[name] is not theirs[name]}
        ablated = {id(parameter) for module in [*lm.mlp_outs, *lm.attention_outs] for parameter in module.parameters()}
        assert own == {name for name, parameter in mine.items() if id(parameter) in ablated}
        logits_of(other, IDS)
    with edited(lm, Edit.of(gains_of(lm))) as other:
        assert all(one is two for one, two in zip(lm.model.parameters(), other.model.parameters(), strict=True))
        logits_of(other, IDS)


@torch.no_grad()
def naive_means(lm, gains, prompts):
    """Mean of g · m over the positions that predict 20 tokens, text by text, without cache or batches."""
    seen = [[] for _ in range(lm.n_blocks)]

    def scale(block):
        return lambda tensor, _frame: tensor * gains[block]

    def see(block):
        return lambda tensor, _frame: seen[block].append(tensor[0, -1].double())

    blocks = range(lm.n_blocks)
    changes = [(neuron_site(lm, block), scale(block)) for block in blocks]
    changes += [(neuron_site(lm, block), see(block)) for block in blocks]
    with hooked(lm, changes):
        for prompt in prompts:
            ids = lm.tokenizer(prompt)["input_ids"]
            for _ in range(20):
                ids = [*ids, int(lm.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())]
                if ids[-1] in lm.end_ids:
                    break
    return torch.stack([torch.stack(rows).mean(0) for rows in seen])


def test_means_have_the_gains_in_them(lm):
    """So a patch with them sets what the edited neuron writes, as an independent loop has it."""
    edit = Edit.of(gains_of(lm))
    prompts = TEXTS[:3]
    with edited(lm, edit) as other:
        means = collect_means(other, prompts)
    assert_close(means.mean, naive_means(lm, edit.gains.values, prompts))
    folded = collect_means(fold(lm, edit), prompts)
    assert_close(edit.gains.values.double() * folded.mean, means.mean)


def test_contributions_are_those_of_the_folded_model_but_for_where_they_come_from(lm):
    edit, direction = both_of(lm), random_direction(lm, 7)
    before = collect_means(lm, TEXTS)
    with edited(lm, edit) as other:
        here = contributions(lm, other, before, collect_means(other, TEXTS), direction)
    ablation_alone = Edit(ablations=edit.ablations)
    folded = fold(lm, edit)
    there = contributions(lm, folded, before, collect_means(folded, TEXTS), direction)
    assert_close(here.total, there.total, 1e-4)
    # Value vectors keep their length but for the ablation, so their part is that of the ablation.
    with edited(lm, ablation_alone) as ablated:
        for block in range(lm.n_blocks):
            assert torch.equal(ablated.value_vectors(block), fold(lm, ablation_alone).value_vectors(block))
        logits_of(ablated, IDS)
    with edited(lm, Edit.of(gains_of(lm))) as other:
        gains = contributions(lm, other, before, collect_means(other, TEXTS), direction)
    assert float(gains.from_vectors.abs().max()) == 0
    assert float(gains.from_activations.abs().max()) > 0


def test_two_edits_have_two_fingerprints_and_the_same_one_the_same(llama):
    def fingerprint(edit):
        with edited(llama, edit) as other:
            logits_of(other, IDS)
            return other.fingerprint

    one, other = (Edit.of(Gains(random_gains(llama, seed))) for seed in (0, 1))
    assert fingerprint(one) == fingerprint(one) != fingerprint(other)
    assert fingerprint(one) != llama.fingerprint


def test_a_model_under_an_intervention_is_no_plain_one(llama):
    edit = Edit.of(gains_of(llama))
    with edit.on(llama):
        logits_of(llama, IDS)
        with pytest.raises(DposcopeError, match="an intervention is on this model"), edited(llama, edit):
            pass  # pragma: no cover


def test_an_edit_that_does_not_fit_is_told(llama, gpt2):
    before = bits(llama.model)
    with pytest.raises(DposcopeError, match="do not fit"), edited(llama, Edit.of(gains_of(gpt2))):
        pass  # pragma: no cover
    assert bits(llama.model) == before


def test_one_that_never_ran_is_told(llama):
    with pytest.raises(DposcopeError, match="never fired"), edited(llama, Edit.of(gains_of(llama))):
        logits_of(llama, IDS)


def test_after_an_error_inside_it_is_gone_and_the_base_is_plain(lm):
    plain, hooks = logits_of(lm, IDS), hook_count(lm.model)
    with pytest.raises(RuntimeError, match="Could not infer"), edited(lm, both_of(lm)) as other:
        logits_of(other, None)
    assert hook_count(lm.model) == hooks
    assert torch.equal(logits_of(lm, IDS), plain)
    with pytest.raises(DposcopeError, match="context of this edited model has ended"):
        logits_of(other, IDS)


def test_it_is_not_saved_without_its_gains(llama, tmp_path):
    with edited(llama, Edit.of(gains_of(llama))) as other:
        logits_of(other, IDS)
        with pytest.raises(DposcopeError, match="not in its weights"):
            other.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("kind", EDITS)
def test_in_half_precision_it_is_measured_as_the_same_model(lm, kind):
    """Hooks on activations and rounded weights part in bfloat16; what is measured is what was explained."""
    lm = copied(lm)
    lm.model.bfloat16()
    edit = Edit.of(EDITS[kind](lm))
    prompts = tuple(TEXTS[:4])
    materials = Materials(
        prompts=prompts,
        passages=Passages(tuple(TEXTS[:2]), tuple(TEXTS[2:4])),
        neutral=" ".join(TEXTS * 40),
        scorer=function_scorer(softness, "softness"),
        max_windows=1,
    )
    found = measure(lm, EditedModel(edit), materials)
    with edited(lm, edit) as other:
        assert found.continuations == [text.text for text in generate(other, prompts)]
        alone, beside = measure(other, None, materials).to_json(), found.to_json()
    # The plain model reads a second model's texts for their relevance; alone, that model is the plain one.
    assert alone.pop("relevance") != beside.pop("relevance")
    assert alone == beside
