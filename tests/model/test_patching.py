"""Identities of activation patching that the explanation of a tuned model rests on (paper 3.3)."""

import copy

import torch

from dposcope.model.batches import batches, encode
from dposcope.model.hooks import hooked, mlp_sites, neuron_site
from dposcope.model.language_model import LanguageModel
from helpers.families import TEXTS


def tuned_but_for_value_vectors(lm: LanguageModel) -> LanguageModel:
    """The same model with every weight moved, but for the MLPs' output projections."""
    model = copy.deepcopy(lm.model)
    tuned = LanguageModel(model, lm.tokenizer, "tuned")
    kept = {id(parameter) for module in tuned.mlp_outs for parameter in module.parameters()}
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) not in kept:
                parameter.add_(0.1 * parameter.abs().mean() * torch.randn(parameter.shape, generator=draw))
    return tuned


@torch.no_grad()
def run(lm, *, patch=None):
    """Neuron activations and MLP outputs of every block while a padded batch is read; activations replaced first."""
    neurons, outputs = {}, {}

    def set_neurons(block):
        return lambda _activations, _frame: patch[block]

    def see(where, block):
        return lambda tensor, _frame: where.__setitem__(block, tensor.clone())

    blocks = range(lm.n_blocks)
    changes = [(neuron_site(lm, block), set_neurons(block)) for block in blocks] if patch else []
    changes += [(neuron_site(lm, block), see(neurons, block)) for block in blocks]
    changes += [(mlp_sites(lm, block)[0], see(outputs, block)) for block in blocks]
    batch = next(iter(batches(lm, encode(lm, TEXTS), batch_size=len(TEXTS), side="right")))
    with hooked(lm, changes):
        lm.model(input_ids=batch.ids, attention_mask=batch.mask)
    return neurons, outputs


def test_all_neurons_at_all_positions_make_the_tuned_mlp_outputs(lm):
    tuned = tuned_but_for_value_vectors(lm)
    neurons, outputs = run(tuned)
    plain = run(lm)[1]
    patched = run(lm, patch=neurons)[1]
    for block in range(lm.n_blocks):
        assert torch.equal(patched[block], outputs[block]), block
        assert not torch.equal(plain[block], outputs[block])


def test_a_models_own_activations_change_nothing(lm):
    neurons, outputs = run(lm)
    again = run(lm, patch=neurons)[1]
    assert all(torch.equal(again[block], outputs[block]) for block in range(lm.n_blocks))
