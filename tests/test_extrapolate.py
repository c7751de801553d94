"""Weights on the line through a base and a tuned model, beside plain arithmetic, for every family."""

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.model.extrapolate import along, extrapolate
from families import FAMILIES, bits, tiny


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


def test_half_precision_is_rounded_once():
    base, tuned = tuned_from("llama", torch.bfloat16)
    own = {name: p.detach().float() for name, p in base.model.named_parameters()}
    before = {name: p.detach().float() for name, p in tuned.model.named_parameters()}
    fingerprint = tuned.fingerprint
    extrapolate(base, tuned, 2.0)
    for name, parameter in tuned.model.named_parameters():
        assert parameter.dtype == torch.bfloat16
        assert torch.equal(parameter, (2 * before[name] - own[name]).bfloat16())
    assert tuned.fingerprint != fingerprint


def test_another_model_is_refused():
    with pytest.raises(DposcopeError, match="give a model tuned from it"):
        extrapolate(tiny("llama"), tiny("gpt2"), 2.0)
