"""Weights on the line through a base and a tuned model, beside plain arithmetic, for every family."""

import copy

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.interventions.extrapolate import along, extrapolate, stochastically_rounded
from helpers.families import FAMILIES, bits, tiny
from helpers.quantised import in_bytes


def tuned_from(family: str, dtype: torch.dtype = torch.float32):
    base, tuned = tiny(family), tiny(family)
    stream = torch.Generator().manual_seed(3)
    for lm in (base, tuned):
        lm.model.to(dtype)
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=stream).to(dtype))
    return base, tuned


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("strength", [0.3, 2.0])
def test_each_weight_lies_on_the_line(family, strength):
    base, tuned = tuned_from(family)
    untouched, before = bits(base.model), {name: p.detach().clone() for name, p in tuned.model.named_parameters()}
    extrapolate(base, tuned, strength)
    own = dict(base.model.named_parameters())
    for name, parameter in tuned.model.named_parameters():
        wanted = [a + strength * (b - a) for a, b in zip(own[name].flatten(), before[name].flatten(), strict=True)]
        torch.testing.assert_close(parameter.flatten(), torch.stack(wanted), rtol=1e-6, atol=1e-6)
    assert bits(base.model) == untouched


def test_its_ends_are_the_two_models_to_the_bit():
    base, tuned = tuned_from("gemma3")
    own = dict(base.model.named_parameters())
    assert all(torch.equal(values, own[name]) for name, values in along(base, tuned, 0.0))
    ends = dict(tuned.model.named_parameters())
    assert all(torch.equal(values, ends[name]) for name, values in along(base, tuned, 1.0))
    kept = bits(tuned.model)
    extrapolate(base, tuned, 1.0)
    assert bits(tuned.model) == kept


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_is_on_one_side_or_the_other(family, dtype):
    base, tuned = tuned_from(family, dtype)
    own = {name: p.detach().double() for name, p in base.model.named_parameters()}
    before = {name: p.detach().double() for name, p in tuned.model.named_parameters()}
    fingerprint = tuned.fingerprint
    extrapolate(base, tuned, 1.7)
    for name, parameter in tuned.model.named_parameters():
        assert parameter.dtype == dtype
        wanted = own[name] + 1.7 * (before[name] - own[name])
        step = torch.finfo(dtype).eps * torch.maximum(parameter.double().abs(), wanted.abs())
        assert ((parameter.double() - wanted).abs() <= step + 1e-6).all()  # 1e-6: below float16's normal numbers
    assert tuned.fingerprint != fingerprint


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("negative", [False, True])
def test_on_average_a_rounded_value_is_itself(dtype, negative):
    below, above = 1.0, 1.0 + torch.finfo(dtype).eps
    for share in (0.1, 0.5, 0.75):
        value = below + share * (above - below)
        values = torch.full((40_000,), -value if negative else value)
        found = stochastically_rounded(values, dtype, seed=1).float().abs()
        assert set(found.unique().tolist()) == {below, above}
        assert (found == above).float().mean().item() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_a_precision_holds_is_not_rounded(dtype):
    exact = torch.cat([torch.randn(5_000, generator=torch.Generator().manual_seed(0)), torch.tensor([0.0, 1.0, -2.0])])
    exact = exact.to(dtype)
    assert torch.equal(stochastically_rounded(exact.float(), dtype, seed=5), exact)


def test_the_line_is_no_staircase_where_training_moved_one_step():
    """Weights a last place apart: rounding to nearest would leave all of them at s = 1.4 and double them at s = 1.6."""
    base, tuned = tiny("llama"), tiny("llama")
    for lm in (base, tuned):
        lm.model.to(torch.bfloat16)
    with torch.no_grad():
        for before, after in zip(base.model.parameters(), tuned.model.parameters(), strict=True):
            before.fill_(1.0)
            after.fill_(1.0 + 2**-7)
    moved = []
    for strength in (1.4, 1.6, 1.6):
        other = copy.deepcopy(tuned)
        extrapolate(base, other, strength)
        moved.append(torch.cat([parameter.flatten() for parameter in other.model.parameters()]).double())
    assert [((one - 1) * 2**7).mean().item() for one in moved[:2]] == pytest.approx([1.4, 1.6], abs=0.02)
    assert torch.equal(moved[1], moved[2])
    assert (moved[1] >= moved[0]).all()  # the same luck at every strength


def test_another_model_is_refused():
    with pytest.raises(DposcopeError, match="give a model tuned from it"):
        extrapolate(tiny("llama"), tiny("gpt2"), 2.0)


@pytest.mark.parametrize("first", [True, False])
def test_there_is_nothing_between_codes(first):
    lm, coded = tiny("llama"), in_bytes(tiny("llama"))
    pair = (coded, lm) if first else (lm, coded)
    with pytest.raises(DposcopeError, match=r"of in-bytes are quantised, .*; use a strength of 1, or load"):
        extrapolate(*pair, 2.0)
