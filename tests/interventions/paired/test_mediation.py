"""Mediation against the four activations of each neuron, computed by hand from the model's own weights."""

import pytest
import torch
from transformers import OPTConfig

from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.edited import edited
from dposcope.interventions.gains import Gains
from dposcope.interventions.paired.mediation import mediation
from dposcope.model.generate import Continuation
from dposcope.model.language_model import LanguageModel
from helpers import mixtures
from helpers.changes import tuned_copy
from helpers.families import (
    CONTEXT,
    MIXTURES,
    VOCABULARY,
    assert_close,
    bits,
    bos_tokenizer,
    build,
    copied,
    hook_count,
    random_gains,
)

TEXTS = [
    Continuation([2, 40, 41], [55, 60, 61, 70], ""),
    Continuation([2, 33], [12, 90, 17, 44, 3], ""),
    Continuation([2], [9], ""),
]


def mlp_of(lm, block):
    """The module that reads what the MLP reads; OPT's blocks hold their projections themselves."""
    kind = lm.model.config.model_type
    if kind == "opt":
        return lm.model.model.decoder.layers[block].fc1
    return (lm.model.transformer.h if kind == "gpt2" else lm.model.model.layers)[block].mlp


def reads_of(lm, ids):
    """What each block's MLP read on one text."""
    held, handles = [], []
    for block in range(lm.n_blocks):
        look = mlp_of(lm, block).register_forward_pre_hook(
            lambda _m, args: held.append(args[0].reshape(-1, lm.d_model))
        )
        handles.append(look)
    lm.model(input_ids=torch.tensor([ids]), use_cache=False)
    for handle in handles:
        handle.remove()
    return held


def neurons_of(lm, block, x):
    """m by the MLP's own weights, written out: act(gate x) · up x, or act(fc x)."""
    mlp = mlp_of(lm, block)
    if lm.model.config.model_type == "gpt2":
        return mlp.act(mlp.c_fc(x))
    if lm.model.config.model_type == "opt":
        return torch.relu(mlp(x))
    return mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)


@torch.no_grad()
def naive(base, other):
    own, before, change = (torch.zeros(base.n_blocks, base.d_mlp, dtype=torch.float64) for _ in range(3))
    for text in TEXTS:
        ids = [*text.prompt_ids, *text.ids]
        mine, theirs = reads_of(base, ids), reads_of(other, ids)
        for block in range(base.n_blocks):
            for t in range(len(ids)):
                start = neurons_of(base, block, mine[block][t]).double()
                end = neurons_of(other, block, theirs[block][t]).double()
                a = neurons_of(other, block, mine[block][t]).double() - start
                b = neurons_of(base, block, theirs[block][t]).double() - start
                own[block] += a * (end - start)
                before[block] += b * (end - start)
                change[block] += (end - start) ** 2
    return own, before, change


def opt():
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "ffn_dim": 24, "num_attention_heads": 4}
    special = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 3}
    config = OPTConfig(
        **sizes, **special, vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, word_embed_proj_dim=16
    )
    return LanguageModel(build(config), bos_tokenizer(), "tiny-opt")


def test_sums_of_blocks_that_hold_their_projections_themselves():
    base = opt()
    other = tuned_copy(base, strength=0.05)
    found = mediation(base, other, TEXTS, batch_size=2)
    for part, expected in zip((found.own, found.before, found.change), naive(base, other), strict=True):
        assert_close(part, expected, 1e-5)
    assert found.change.any()


def test_sums_are_those_of_every_position(lm):
    other = tuned_copy(lm)
    found = mediation(lm, other, TEXTS, batch_size=2)
    for ours, wanted in zip((found.own, found.before, found.change), naive(lm, other), strict=True):
        assert torch.allclose(ours, wanted, rtol=1e-3, atol=1e-5)
    whole = found.shares()
    assert whole.own + whole.before + whole.interaction == pytest.approx(1)
    assert whole.own == pytest.approx(float(found.own.sum() / found.change.sum()))


@pytest.mark.parametrize("family", MIXTURES)
def test_in_a_mixture_an_activation_is_0_where_a_token_was_not_sent(family):
    base = mixtures.shared_mixture(family)
    other = tuned_copy(base)
    own, before, change = (torch.zeros(base.n_blocks, base.d_mlp, dtype=torch.float64) for _ in range(3))
    for text in TEXTS:
        ids = [*text.prompt_ids, *text.ids]
        mine, theirs = mixtures.inputs_of(base, ids), mixtures.inputs_of(other, ids)
        for block in range(base.n_blocks):
            start, end, a, b = (
                mixtures.activations_for(lm, block, read[block]).double()
                for lm, read in ((base, mine), (other, theirs), (other, mine), (base, theirs))
            )
            own[block] += ((a - start) * (end - start)).sum(0)
            before[block] += ((b - start) * (end - start)).sum(0)
            change[block] += (end - start).square().sum(0)
    found = mediation(base, other, TEXTS, batch_size=2)
    for ours, wanted in zip((found.own, found.before, found.change), (own, before, change), strict=True):
        assert torch.allclose(ours, wanted, rtol=1e-3, atol=1e-4)
    assert hook_count(base.model) == hook_count(other.model) == 0


def test_a_change_of_one_blocks_mlp_is_its_own_and_later_blocks_get_it_from_before(lm):
    other = copied(lm)
    mlp = mlp_of(other, 0)
    with torch.no_grad():
        (mlp.c_fc if lm.model.config.model_type == "gpt2" else mlp.up_proj).weight.mul_(1.3)
    found = mediation(lm, other, TEXTS).by_block
    assert found[0].own == pytest.approx(1, abs=1e-4)
    assert found[0].before == pytest.approx(0, abs=1e-4)
    for later in found[1:]:
        assert later.own == pytest.approx(0, abs=1e-4)
        assert later.before == pytest.approx(1, abs=1e-4)


def test_gains_of_an_edit_are_a_neurons_own(lm):
    gains = Gains(random_gains(lm))
    with edited(lm, Edit(gains)) as other:
        found = mediation(lm, other, TEXTS)
    assert found.by_block[0].own == pytest.approx(1, abs=1e-4)


def test_nothing_is_left_and_what_does_not_fit_is_refused(lm):
    other = tuned_copy(lm)
    before = bits(lm.model), bits(other.model)
    mediation(lm, other, TEXTS)
    assert (bits(lm.model), bits(other.model)) == before
    assert hook_count(lm.model) == hook_count(other.model) == 0
    with pytest.raises(DposcopeError, match="no text to read"):
        mediation(lm, other, [])
    with pytest.raises(DposcopeError, match="no neuron changes"):
        mediation(lm, copied(lm), TEXTS).shares()
