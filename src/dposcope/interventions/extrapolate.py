"""Interpolation and extrapolation of a tuned model: W₀ + s (W₁ − W₀), weight by weight.

In half precision, most weights that tuning changes differ by one unit in the last place. Rounding to nearest would make
all of them equal to W₁ for 0.5 < s < 1.5, and change all of them by twice the distance above that. So in half precision
the weights use stochastic rounding: the probability of rounding up is the distance to the value below.
"""

import math
import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

from dposcope.errors import DposcopeError
from dposcope.model.language_model import LanguageModel, stored_buffers
from dposcope.model.tuned import settings_that_differ


def along(base: LanguageModel, tuned: LanguageModel, strength: float) -> Iterator[tuple[str, Tensor]]:
    """Every parameter on the straight line through the base (s = 0) and the tuned model (s = 1).

    In half precision each weight is on the line on average (see `stochastically_rounded`). A weight uses the same
    random number at every strength, so that two models differ by their strengths only.

    Args:
        base: the model before tuning.
        tuned: the model after tuning; not changed.
        strength: s.

    Yields:
        Name and value of each parameter, in the tuned model's precision; at s = 1 the tuned model's own, to the bit.

    Raises:
        DposcopeError: the two models have different parameters, quantised ones, or configs by which the same weights
            compute something else.
    """
    quantised = next((lm for lm in (base, tuned) if lm.quantised), None)
    if quantised is not None:
        raise DposcopeError(
            f"the weights of {quantised.name} are quantised, and there is nothing between two codes; use a strength of "
            "1, or load the models unquantised"
        )
    own, other = dict(base.model.named_parameters()), dict(tuned.model.named_parameters())
    if own.keys() != other.keys() or any(own[name].shape != other[name].shape for name in own):
        raise DposcopeError(f"{tuned.name} has other parameters than {base.name}; give a model tuned from it")
    differing = settings_that_differ(base, tuned) if strength != 1 else set[str]()
    if differing:
        raise DposcopeError(
            f"{tuned.name} and {base.name} differ in {sorted(differing)[0]}, so nothing lies between them; use a "
            "strength of 1"
        )
    for name, before in own.items():
        after = other[name].detach()
        if strength == 1:
            yield name, after
            continue
        values = torch.lerp(before.detach().to(after.device).float(), after.float(), strength)
        yield name, stochastically_rounded(values, after.dtype, seed=zlib.crc32(name.encode()))


def extrapolate(base: LanguageModel, tuned: LanguageModel, strength: float) -> None:
    """Replace the weights of `tuned` by those at `strength`, in place, its stored buffers among them.

    Args:
        base: the model before tuning.
        tuned: the model after tuning; its weights are overwritten.
        strength: s; 1 changes nothing.

    Raises:
        DposcopeError: see `along`.
    """
    own, before = dict(tuned.model.named_parameters()), stored_buffers(base.model)
    with torch.no_grad():
        for name, values in along(base, tuned, strength):
            own[name].copy_(values)
        for name, buffer in stored_buffers(tuned.model).items() if strength != 1 else ():
            if buffer.is_floating_point():
                buffer.copy_(torch.lerp(before[name].to(buffer.device).float(), buffer.float(), strength))


def stochastically_rounded(values: Tensor, dtype: torch.dtype, *, seed: int) -> Tensor:
    """Stochastic rounding to a narrower precision: each value goes up or down at random, and is kept on average.

    A value that the precision can represent is kept to the bit.

    Args:
        values: float32, any shape; overwritten.
        dtype: bfloat16 or float16; nothing is rounded for wider types.
        seed: seed of the random numbers, which are the same on every device.

    Returns:
        Values of `dtype`. Values below the smallest normal number of float16 are rounded to nearest.
    """
    dropped = round(math.log2(torch.finfo(dtype).eps / torch.finfo(torch.float32).eps))
    if dropped <= 0:
        return values.to(dtype)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(1 << dropped, values.shape, generator=generator, dtype=torch.int32).to(values.device)
    # Neighbours in float32 have bit patterns that differ by one, for every exponent. Adding a random number to the bits
    # that are cut off carries into the kept bits with the right probability.
    values.view(torch.int32).add_(noise).bitwise_and_(-1 << dropped)
    return values.to(dtype)
