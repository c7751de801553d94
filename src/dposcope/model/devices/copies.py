"""Copies of models and changes of precision, where accelerate has put functions of its own on a model.

A model that accelerate has spread over devices has hooks in `forward` of its modules, and `to` of its own, which holds
the model that it was made for: on a copy, it would still move or convert the first one.
"""

import copy
from collections.abc import Mapping
from types import MappingProxyType, MethodType
from typing import Any, Final, TypeVar

import torch
from torch import nn

from dposcope.model.cache import forget

M = TypeVar("M", bound=nn.Module)

OF_HOOKS: Final = frozenset({"_hf_hook", "_old_forward", "forward"})
"""What accelerate keeps on a module that it has put a hook on."""
_MOVING: Final = ("to", "cuda", "xpu", "npu", "mlu", "sdaa", "musa")
"""Methods of a whole model that accelerate replaces."""


@torch.inference_mode(mode=False)
def copied_model(model: M, memo: Mapping[int, object] = MappingProxyType({})) -> M:
    """A deep copy that moves and converts itself, and can be trained whatever the mode of the caller.

    Args:
        model: the original.
        memo: id → what takes the place of that object in the copy, as `copy.deepcopy` takes it.
    """
    forget(model)
    twin = copy.deepcopy(model, dict(memo))
    for module in twin.modules():
        for name in _MOVING:
            vars(module).pop(name, None)
    return twin


def convert_(model: nn.Module, dtype: torch.dtype) -> None:
    """Change the precision of a model's weights; each stays on its device. Rotary frequencies keep theirs, as in every
    model that transformers loads: at position 1,000 rounded ones would turn by another angle."""
    frequencies = [
        (module, name, buffer)
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name.endswith("inv_freq")
    ]
    nn.Module.to(model, dtype)
    for module, name, buffer in frequencies:
        setattr(module, name, buffer)


def forward_of_class_(module: Any) -> None:
    """Let accelerate's hook on a module, if there is one, call what its class computes. Needed where the class has
    changed."""
    if "_old_forward" in vars(module):
        module._old_forward = MethodType(type(module).forward, module)
