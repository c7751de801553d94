"""A tuned model taken further than its training went, or less far: W₀ + s (W₁ − W₀), weight by weight."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dposcope.errors import DposcopeError
from dposcope.model.language_model import LanguageModel


def along(base: LanguageModel, tuned: LanguageModel, strength: float) -> Iterator[tuple[str, Tensor]]:
    """Every parameter on the straight line through the base (s = 0) and the tuned model (s = 1).

    Args:
        base: the model before tuning.
        tuned: the one after it; not changed.
        strength: s.

    Yields:
        Name and value of each parameter, in float32; at s = 1 the tuned model's own, to the bit.

    Raises:
        DposcopeError: they have other parameters.
    """
    own, other = dict(base.model.named_parameters()), dict(tuned.model.named_parameters())
    if own.keys() != other.keys() or any(own[name].shape != other[name].shape for name in own):
        raise DposcopeError(f"{tuned.name} has other parameters than {base.name}; give a model tuned from it")
    for name, before in own.items():
        after = other[name].detach()
        yield name, after if strength == 1 else torch.lerp(before.detach().float(), after.float(), strength)


def extrapolate(base: LanguageModel, tuned: LanguageModel, strength: float) -> None:
    """Move `tuned` along that line, in place and in its own precision.

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
