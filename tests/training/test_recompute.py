"""Activations computed again in the backward pass."""

import pytest
import torch

from dposcope.training.policy import recomputed
from helpers.policies import OBJECTIVES, VARIANTS, WAYS, disturb, material, packed, variant_lm


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("way", ["full", "lora"])
def test_loss_and_gradients_are_the_same_to_the_bit(variant, way):
    results = []
    for recompute in (False, True):
        lm = variant_lm(variant, torch.float32)
        batch = packed(lm, material(3, 2))
        with WAYS[way](lm, OBJECTIVES["neutral"], recompute=recompute) as trainable:
            disturb(trainable.policy)
            found = trainable.policy(batch, 2)
            found.loss.backward()
            slopes = {name: value.grad.to_dense().clone() for name, value in trainable.policy.trainable.items()}
            results.append((found.loss.detach(), slopes))
    (one, slopes), (other, others) = results
    assert torch.equal(one, other)
    assert any(slope.any() for slope in slopes.values())
    assert slopes.keys() == others.keys()
    assert all(torch.equal(slopes[name], others[name]) for name in slopes)


def test_nothing_within_a_block_is_kept(lm):
    """Of the tensors that autograd keeps, those of the MLP's width are gone."""
    lm.model.requires_grad_(True)

    def kept(context):
        shapes = []
        with (
            torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.append(tuple(t.shape)) or t, lambda t: t),
            context,
        ):
            lm.model.base_model(input_ids=torch.tensor([[1, 2, 3, 4, 5]]), use_cache=False)
        return [shape for shape in shapes if shape == (1, 5, lm.d_mlp)]

    try:
        assert kept(torch.enable_grad())
        assert not kept(recomputed(lm.blocks))
    finally:
        lm.model.requires_grad_(False)


def test_no_cast_of_a_weight_outlives_its_block(llama):
    """Autocast would keep them to the end of the forward pass: half of what the weights take."""
    seen = []
    hook = llama.mlp_outs[0].register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_cache_enabled()))
    llama.model.requires_grad_(True)
    try:
        for blocks in ((), llama.blocks):
            with torch.autocast("cpu", torch.bfloat16), recomputed(blocks):
                read = llama.model.base_model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)
            assert torch.is_autocast_cache_enabled()
            read.last_hidden_state.sum().backward()
    finally:
        hook.remove()
        llama.model.requires_grad_(False)
        llama.model.zero_grad()
    assert seen == [True, False, False]  # the last one is computed again


def test_blocks_are_as_before(llama):
    before = [block.forward for block in llama.blocks]
    with recomputed(llama.blocks):
        assert [block.forward for block in llama.blocks] != before
    assert [block.forward for block in llama.blocks] == before
    assert not any("forward" in vars(block) for block in llama.blocks)
