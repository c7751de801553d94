"""Steer: x − αW at the end of a block, or at the MLP's output."""

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.steer import Steer
from dposcope.model.frames import Positions
from helpers.families import assert_close, copied, logits_of, random_direction, trace

IDS = [2, 40, 41, 55, 60, 61, 70, 33, 12, 90]


@pytest.mark.parametrize("site", ["residual", "mlp"])
def test_alpha_w_is_taken_away_at_every_block_and_site(lm, site):
    vector = random_direction(lm)
    name = "stream" if site == "residual" else "mlp"
    for block in range(lm.n_blocks):
        rule = {name: lambda b, x, block=block: x - (1.5 * vector).float() if b == block else x}
        expected = trace(lm, IDS, **rule).logits
        with Steer(vector, alpha=1.5, block=block, site=site).on(lm) as applied:
            assert_close(logits_of(lm, IDS), expected, 1e-6)
        assert applied.fired == {f"{site}.{block}": 1}
        assert not torch.allclose(expected, logits_of(lm, IDS), atol=1e-3)
        with Steer(vector, alpha=1.5, block=block - lm.n_blocks, site=site).on(lm):
            assert_close(logits_of(lm, IDS), expected, 1e-6)


def test_the_last_block_is_the_default(lm):
    vector = random_direction(lm)
    with Steer(vector, alpha=2.0).on(lm):
        default = logits_of(lm, IDS)
    with Steer(vector, alpha=2.0, block=lm.n_blocks - 1, site="residual", positions=Positions.ALL).on(lm):
        assert torch.equal(logits_of(lm, IDS), default)


def test_sites_differ_where_a_norm_follows_the_mlp(family_lm):
    """Gemma writes norm(MLP) into the stream; elsewhere both sites are the same sum."""
    for family, alike in (("gemma2", False), ("gemma3", False), ("llama", True), ("gpt2", True)):
        lm = family_lm(family)
        logits = []
        for site in ("residual", "mlp"):
            with Steer(random_direction(lm), alpha=1.0, block=1, site=site).on(lm):
                logits.append(logits_of(lm, IDS))
        assert torch.allclose(*logits, atol=1e-4) == alike, family


def test_a_negative_alpha_adds(llama):
    vector, plain = random_direction(llama), logits_of(llama, IDS)
    expected = trace(llama, IDS, stream=lambda block, x: x + vector.float() if block == 2 else x).logits
    with Steer(vector, alpha=-1.0).on(llama):
        assert_close(logits_of(llama, IDS), expected)
        with Steer(vector, alpha=1.0).on(llama):
            assert_close(logits_of(llama, IDS), plain)


def test_in_bfloat16_the_shift_is_rounded_once(llama):
    lm = copied(llama)
    lm.model.to(torch.bfloat16)
    vector = random_direction(lm) / 100
    plain = trace(lm, IDS).stream[0]
    seen = []
    with Steer(vector, alpha=0.3, block=0).on(lm):
        handle = lm.blocks[1].register_forward_pre_hook(lambda _m, args: seen.append(args[0][0]))
        logits_of(lm, IDS)
        handle.remove()
    exact = (plain.float() - (0.3 * vector).float()).bfloat16()
    assert torch.equal(seen[0], exact)


def test_what_does_not_fit_is_refused(llama):
    with pytest.raises(DposcopeError, match=r"shape \[5\], the model's residual stream \[16\]"):
        Steer(torch.ones(5), alpha=1.0).on(llama).__enter__()
    for block in (3, -4):
        with pytest.raises(DposcopeError, match=rf"block {block} is outside a model of 3 blocks"):
            Steer(torch.ones(16), alpha=1.0, block=block).on(llama).__enter__()


@pytest.mark.parametrize(("vector", "alpha"), [(float("nan"), 1.0), (float("inf"), 1.0), (1.0, float("nan"))])
def test_nan_is_refused(llama, vector, alpha):
    """It would turn every text into the same token, in silence."""
    with pytest.raises(DposcopeError, match=r"NaN|finite"):
        Steer(torch.full((16,), vector), alpha=alpha).on(llama).__enter__()


def test_a_vector_that_is_written_to_steers_as_before(llama):
    own = random_direction(llama).float()
    steer, same = Steer(own, 2.0), Steer(own.clone(), 2.0)
    own.zero_()
    with steer.on(llama):
        found = logits_of(llama, [2, 40, 41])
    with same.on(llama):
        assert torch.equal(found, logits_of(llama, [2, 40, 41]))
