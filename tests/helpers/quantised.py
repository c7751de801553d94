"""Quantised models without a package: a layer that keeps bytes and scales, as those of GPTQ or FP8 do in essence."""

import copy
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from dposcope.model.language_model import LanguageModel


class Bytes(nn.Module):
    """Weights as int8 times one scale per output. What it knows of its weight is in `forward` alone."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        weight = like.weight.detach().T if isinstance(like, Conv1D) else like.weight.detach()
        self.out_features, self.in_features = weight.shape
        self.source_cls = type(like)
        scale = weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("codes", (weight / scale).round().to(torch.int8))
        self.register_buffer("scales", scale)
        self.bias = None if like.bias is None else nn.Parameter(like.bias.detach().clone(), requires_grad=False)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return functional.linear(inputs, naive_weight(self).to(inputs.dtype), self.bias)


def naive_weight(layer: Bytes) -> torch.Tensor:
    """`[outputs, inputs]`."""
    return layer.codes.float() * layer.scales


def in_bytes(lm: LanguageModel, *, name: str = "in-bytes") -> LanguageModel:
    """A copy with every linear layer of its blocks in bytes."""
    other = replace(lm, model=copy.deepcopy(lm.model), name=name)
    for block in list(other.blocks):
        for path, module in list(block.named_modules()):
            if isinstance(module, nn.Linear | Conv1D):
                block.set_submodule(path, Bytes(module))
    return replace(other)


def by_hand(lm: LanguageModel) -> LanguageModel:
    """The plain model with the numbers that the bytes of `lm` stand for."""
    other = replace(lm, model=copy.deepcopy(lm.model), name="by-hand")
    for name, module in list(other.model.named_modules()):
        if isinstance(module, Bytes):
            weight = naive_weight(module)
            conv = module.source_cls is Conv1D
            layer = Conv1D(module.out_features, module.in_features) if conv else nn.Linear(*weight.T.shape)
            layer.weight = nn.Parameter(weight.T.contiguous() if conv else weight)
            layer.bias = module.bias
            other.model.set_submodule(name, layer)
    other.model.eval()
    return replace(other)
