"""A tuned model taken further than its training went, or less far: W₀ + s (W₁ − W₀), weight by weight.

Most weights that tuning moved in half precision moved by one step of their last place. Rounding to nearest would turn
the line between two such models into a staircase: all of them where training left them below s = 1.5, and beyond it all
at twice the distance. So in half precision weights are rounded at random, up as often as they lie near the value above.
"""

import math
import zlib
from collections.abc import Iterator

import torch
from torch import Tensor

from dposcope.errors import DposcopeError
from dposcope.model.language_model import LanguageModel


def along(base: LanguageModel, tuned: LanguageModel, strength: float) -> Iterator[tuple[str, Tensor]]:
    """Every parameter on the straight line through the base (s = 0) and the tuned model (s = 1).

    In half precision each weight is on the line on average (see `rounded_at_random`); the same weight has the same luck
    at every strength, so that models at two strengths differ by their strengths alone.

    Args:
        base: the model before tuning.
        tuned: the one after it; not changed.
        strength: s.

    Yields:
        Name and value of each parameter, in the tuned model's precision; at s = 1 its own, to the bit.

    Raises:
        DposcopeError: they have other parameters.
    """
    own, other = dict(base.model.named_parameters()), dict(tuned.model.named_parameters())
    if own.keys() != other.keys() or any(own[name].shape != other[name].shape for name in own):
        raise DposcopeError(f"{tuned.name} has other parameters than {base.name}; give a model tuned from it")
    for name, before in own.items():
        after = other[name].detach()
        if strength == 1:
            yield name, after
            continue
        values = torch.lerp(before.detach().float(), after.float(), strength)
        yield name, rounded_at_random(values, after.dtype, seed=zlib.crc32(name.encode()))


def extrapolate(base: LanguageModel, tuned: LanguageModel, strength: float) -> None:
    """Move `tuned` along that line, in place.

    Args:
        base: the model before tuning.
        tuned: just loaded, as its weights are written to.
        strength: s; 1 leaves them as they are.

    Raises:
        DposcopeError: they have other parameters.
    """
    own = dict(tuned.model.named_parameters())
    with torch.no_grad():
        for name, values in along(base, tuned, strength):
            own[name].copy_(values)


def rounded_at_random(values: Tensor, dtype: torch.dtype, *, seed: int) -> Tensor:
    """Values in a narrower precision, each up or down at random, so that the expected result is the value itself.

    One that the precision holds stays, to the bit.

    Args:
        values: float32, any shape; overwritten.
        dtype: bfloat16 or float16; of wider ones nothing is rounded.
        seed: of the draw, which is the same on every device.

    Returns:
        Of `dtype`. Values below the smallest normal number of float16 are rounded to nearest.
    """
    dropped = round(math.log2(torch.finfo(dtype).eps / torch.finfo(torch.float32).eps))
    if dropped <= 0:
        return values.to(dtype)
    generator = torch.Generator().manual_seed(seed)
    luck = torch.randint(1 << dropped, values.shape, generator=generator, dtype=torch.int32).to(values.device)
    # Neighbours in float32 have bit patterns that differ by one, whatever their exponent: a random number below what is
    # cut off carries into what is kept as often as that is due.
    values.view(torch.int32).add_(luck).bitwise_and_(-1 << dropped)
    return values.to(dtype)
