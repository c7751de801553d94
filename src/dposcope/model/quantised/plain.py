"""A quantised model with its dequantised weights: an ordinary model, as large as before quantisation."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm
from dposcope.model.devices.copies import copied_model
from dposcope.model.hooks import is_hooked
from dposcope.model.language_model import LanguageModel
from dposcope.model.quantised.weights import is_quantised, quantised_weight


def dequantised(lm: LanguageModel) -> LanguageModel:
    """A copy of a quantised model with plain weights, the numbers that its codes stand for, in the model's precision.

    An edit folds into it, and it is saved as an ordinary checkpoint. It needs the memory of the unquantised model.

    Raises:
        DposcopeError: an intervention is on the model, or it is not quantised.
    """
    check_lm(lm)
    if is_hooked(lm):
        raise DposcopeError("an intervention is on this model and a copy would keep its hooks; leave the `with` first")
    if not lm.quantised:
        raise DposcopeError(f"{lm.name} is not quantised; use it as it is")
    return replace(lm, model=plain_(copied_model(lm.model)), quantise=None)


@torch.no_grad()
def plain_(model: PreTrainedModel, added: Mapping[str, Tensor] = MappingProxyType({})) -> PreTrainedModel:
    """Replace every quantised layer of `model` by a plain one, one at a time.

    Args:
        model: it is changed.
        added: name of a layer → what is added to its weight, `[outputs, inputs]`, before it is rounded.

    Returns:
        The same model.
    """
    precision = model.dtype
    for name, module in list(model.named_modules()):
        if is_quantised(module):
            weight = quantised_weight(module)
            if name in added:
                weight = weight.float() + added[name]
            model.set_submodule(name, _layer(module, weight.to(precision)))
    forget_quantisation(model)
    return model


def forget_quantisation(model: PreTrainedModel) -> None:
    """Remove what says that a model is quantised, as its weights are plain now: it is saved and moved like others."""
    own = vars(model)
    if "hf_quantizer" in own:
        own["hf_quantizer"].remove_quantization_config(model)
    for mark in ("is_loaded_in_4bit", "is_loaded_in_8bit"):  # peft goes by them
        own.pop(mark, None)


def _layer(module: Any, weight: Tensor) -> nn.Module:
    """The plain layer in a quantised one's place: a `Conv1D` where it was one, so that a checkpoint of it is right."""
    with torch.device("meta"):
        if vars(module).get("source_cls") is Conv1D:  # by transformers
            layer = Conv1D(module.out_features, module.in_features)
            weight = weight.T
        else:
            layer = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
    layer.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    if module.bias is not None:
        layer.bias = nn.Parameter(module.bias.detach().to(weight.dtype, copy=True), requires_grad=False)
    return layer.eval()
