"""An edit folded into weights is the edit by hooks, and the inverse edit takes it out again, whatever the edit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dposcope.interventions.ablate import Ablation
from dposcope.interventions.edit import Edit
from dposcope.interventions.fold import fold, folded
from dposcope.interventions.gains import Gains
from helpers.families import assert_close, bits, logits_of, tiny

FAMILIES = ("gpt2", "llama", "gemma2")
IDS = [2, 40, 41, 55, 60, 61, 70]
TOLERANCE = 2e-5
"""Of the largest logit, or of the largest weight: both ways round in float32, in another order."""


@pytest.fixture(scope="module")
def models():
    return {family: tiny(family) for family in FAMILIES}


@st.composite
def edits(draw, lm, *, smallest=-2.0):
    """Gains of some neurons and heads, and ablations of some blocks."""
    stream = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))

    def gains(width, of):
        share = draw(st.sampled_from([0.1, 0.5, 1.0]))
        values = smallest + (3 - smallest) * torch.rand(lm.n_blocks, width, generator=stream)
        chosen = torch.rand(lm.n_blocks, width, generator=stream) < share
        return Gains(torch.where(chosen, values, 1.0), of=of)

    blocks = st.none() | st.sets(st.integers(0, lm.n_blocks - 1), min_size=1).map(tuple)
    ablations = tuple(
        Ablation(
            torch.randn(lm.d_model, generator=stream),
            draw(st.floats(-1.0, 1.5)),
            draw(blocks),
            mlp=draw(st.booleans()),
            attention=draw(st.booleans()),
        )
        for _ in range(draw(st.integers(0, 2)))
    )
    return Edit(
        draw(st.none() | st.just(gains(lm.d_mlp, "neurons"))),
        ablations,
        {},
        draw(st.none() | st.just(gains(lm.d_attention, "heads"))),
    )


@settings(max_examples=40)
@given(family=st.sampled_from(FAMILIES), data=st.data())
def test_folded_is_hooked(models, family, data):
    lm = models[family]
    edit = data.draw(edits(lm))
    before, plain = bits(lm.model), logits_of(lm, IDS)
    with edit.on(lm) as applied:
        hooked = logits_of(lm, IDS)
    assert_close(logits_of(fold(lm, edit), IDS), hooked, TOLERANCE)
    with folded(lm, edit) as inside:
        assert_close(logits_of(inside, IDS), hooked, TOLERANCE)
    assert bits(lm.model) == before
    assert torch.equal(hooked, plain) or applied.fired


@settings(max_examples=30)
@given(family=st.sampled_from(FAMILIES), data=st.data())
def test_the_inverse_edit_unfolds(models, family, data):
    """Gains 1/g undo gains g, and an ablation of weight w is undone by one of weight w / (w − 1)."""
    lm = models[family]
    edit = data.draw(edits(lm, smallest=0.25))
    ablations = tuple(Ablation(a.direction, min(a.weight, 0.8), a.blocks, a.mlp, a.attention) for a in edit.ablations)
    edit = Edit(edit.gains, ablations, {}, edit.head_gains)
    undone = Edit(
        None if edit.gains is None else Gains(1 / edit.gains.values),
        tuple(Ablation(a.direction, a.weight / (a.weight - 1), a.blocks, a.mlp, a.attention) for a in ablations[::-1]),
        {},
        None if edit.head_gains is None else Gains(1 / edit.head_gains.values, of="heads"),
    )
    once = fold(lm, edit)
    twice = fold(once, undone)
    for (name, weight), original in zip(twice.model.named_parameters(), lm.model.parameters(), strict=True):
        largest = float(original.detach().abs().max())
        torch.testing.assert_close(weight, original, rtol=0, atol=TOLERANCE * largest, msg=name)
    assert_close(logits_of(twice, IDS), logits_of(lm, IDS), 10 * TOLERANCE)


@settings(max_examples=20)
@given(family=st.sampled_from(FAMILIES), data=st.data())
def test_an_edit_of_strength_zero_is_none(models, family, data):
    lm = models[family]
    nothing = data.draw(edits(lm)).strength(0)
    assert bits(fold(lm, nothing).model) == bits(lm.model)
