"""Ablation: output projections lose a share of their component along one direction."""

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import Ablation, ablate
from helpers.families import assert_close, copied, logits_of, random_direction, trace

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]


def taken(direction, weight, blocks=None):
    """A naive rule: every token's output loses w times its component, one token at a time."""
    unit = direction.double() / direction.double().norm()

    def rule(block, rows):
        if blocks is not None and block not in blocks:
            return rows
        new = [row.double() - weight * (row.double() @ unit) * unit for row in rows]
        return torch.stack(new).float()

    return rule


@pytest.mark.parametrize("weight", [0.5, 1.0, 1.5])
def test_both_projections_of_all_blocks_lose_the_share(lm, weight):
    direction = 37 * random_direction(lm)
    rule = taken(direction, weight)
    expected = trace(lm, IDS, mlp=rule, attention=rule).logits
    with ablate(direction, weight=weight).on(lm) as applied:
        assert_close(logits_of(lm, IDS), expected)
    assert len(applied.fired) == 2 * lm.n_blocks
    assert not torch.allclose(expected, logits_of(lm, IDS), atol=1e-3)


@pytest.mark.parametrize("blocks", [(0,), (1,), (0, 1), (1, 0)])
def test_some_blocks(lm, blocks):
    direction = random_direction(lm, 5)
    rule = taken(direction, 0.8, blocks)
    expected = trace(lm, IDS, mlp=rule, attention=rule).logits
    with ablate(direction, weight=0.8, blocks=blocks).on(lm) as applied:
        assert_close(logits_of(lm, IDS), expected)
    assert set(applied.fired) == {f"{kind}.{block}" for kind in ("mlp", "attention") for block in blocks}


@pytest.mark.parametrize("part", ["mlp", "attention"])
def test_one_kind_of_projection(lm, part):
    direction = random_direction(lm, 6)
    chosen = {"mlp": part == "mlp", "attention": part == "attention"}
    expected = trace(lm, IDS, **{part: taken(direction, 1.0)}).logits
    with ablate(direction, **chosen).on(lm) as applied:
        assert_close(logits_of(lm, IDS), expected)
    assert all(name.startswith(part) for name in applied.fired)


def test_weight_one_leaves_nothing_along_the_direction(gpt2):
    """The bias counts as written, so not a trace of it stays either."""
    direction = random_direction(gpt2)
    unit = (direction / direction.norm()).float()
    seen = []
    with ablate(direction).on(gpt2):
        handles = [
            module.register_forward_hook(lambda _m, _a, output: seen.append((output @ unit).abs().max().item()))
            for module in (*gpt2.mlp_outs, *gpt2.attention_outs)
        ]
        logits_of(gpt2, IDS)
        for handle in handles:
            handle.remove()
    assert len(seen) == 6
    assert max(seen) < 1e-5


def test_weight_zero_is_the_plain_model_to_the_bit(lm):
    plain = logits_of(lm, IDS)
    with ablate(random_direction(lm), weight=0.0).on(lm) as applied:
        assert torch.equal(logits_of(lm, IDS), plain)
    assert applied.fired == {}


def test_the_norm_and_kind_of_the_direction_do_not_matter(llama):
    direction = random_direction(llama)
    logits = []
    for version in (direction, 1e-9 * direction, (1e5 * direction).float(), direction.clone().requires_grad_()):
        with ablate(version).on(llama):
            logits.append(logits_of(llama, IDS))
    for other in logits[1:]:
        assert_close(other, logits[0])
    assert ablate(direction).direction.norm().item() == pytest.approx(1)
    assert ablate(direction).direction.dtype == torch.float32


def test_strength_scales_the_weight_alone(llama):
    direction = random_direction(llama)
    weaker = Ablation(direction, 0.8, (1,), attention=False).strength(0.5)
    assert (weaker.weight, weaker.blocks, weaker.mlp, weaker.attention) == (0.4, (1,), True, False)
    assert torch.equal(weaker.direction, ablate(direction).direction)


def test_half_precision(llama):
    """Computed in float32 and rounded once: within half a step of bfloat16 of what the projection wrote."""
    lm = copied(llama)
    lm.model.to(torch.bfloat16)
    direction = random_direction(lm)
    plain = trace(lm, IDS).attention[0]
    seen = []
    with ablate(direction, blocks=(0,), mlp=False).on(lm):
        handle = lm.attention_outs[0].register_forward_hook(lambda _m, _a, output: seen.append(output[0]))
        logits_of(lm, IDS)
        handle.remove()
    exact = taken(direction, 1.0)(0, plain)
    assert seen[0].dtype == torch.bfloat16
    assert ((seen[0].float() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()


def test_what_does_not_fit_is_refused(llama):
    for bad in (torch.zeros(16), torch.full((16,), float("nan")), torch.ones(2, 16)):
        with pytest.raises(DposcopeError, match=r"one vector \[d\]|norm zero|NaN or infinite"):
            ablate(bad)
    with pytest.raises(DposcopeError, match=r"shape \[5\], the model's residual stream \[16\]"):
        ablate(torch.ones(5)).on(llama).__enter__()
    for block in (3, -1):
        with pytest.raises(DposcopeError, match=f"no block {block} in a model of 3 blocks"):
            ablate(torch.ones(16), blocks=(0, block, 7)).on(llama).__enter__()


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_must_be_a_number(weight):
    with pytest.raises(DposcopeError, match="weight"):
        ablate(torch.ones(16), weight=weight)


def test_a_block_named_twice_counts_once(llama):
    """As it does when the same ablation is folded."""
    direction = random_direction(llama)
    with ablate(direction, blocks=(1,), weight=0.5).on(llama):
        once = logits_of(llama, IDS)
    try:
        twice = ablate(direction, blocks=(1, 1), weight=0.5)
    except DposcopeError:
        return  # refusing it is as good
    with twice.on(llama):
        assert torch.equal(logits_of(llama, IDS), once)
