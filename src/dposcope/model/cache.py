"""A model's memory of a text: its cached keys and values, as tensors that can be read and exchanged.

The tensors of a cache are a flat list: keys and values of the first layer, of the second, and so on.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from dposcope.errors import DposcopeError


def _layers(cache: DynamicCache) -> list[DynamicLayer]:
    layers = [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]
    if len(layers) < len(cache.layers):
        raise DposcopeError("the model remembers by more than cached keys and values: not supported; use another model")
    return layers


def cached_tensors(cache: DynamicCache) -> list[Tensor]:
    """Cached keys and values, each `[B, heads, S, head width]`; S is shorter in layers with a sliding window."""
    tensors = [tensor for layer in _layers(cache) for tensor in (layer.keys, layer.values)]
    return [tensor for tensor in tensors if tensor is not None]


def copied(cache: DynamicCache) -> DynamicCache:
    """A cache of the same tensors that can grow by itself: growing replaces tensors, it does not write into them."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


def holding(cache: DynamicCache, tensors: Sequence[Tensor]) -> DynamicCache:
    """A cache at the same place in the text, holding other keys and values."""
    twin = copied(cache)
    for layer, keys, values in zip(_layers(twin), tensors[::2], tensors[1::2], strict=True):
        layer.keys, layer.values = keys, values
    return twin


def movable(cache: DynamicCache, mask: Tensor, window: int) -> list[Tensor]:
    """Which cached positions of each tensor may move, `[B, 1, S, 1]`: the last `window` real tokens, or all."""
    real = mask == 1
    if window > 0:
        real = real.clone()
        real[:, :-window] = False
    return [real[:, -tensor.shape[-2] :, None].unsqueeze(1) for tensor in cached_tensors(cache)]


def row_norms(tensor: Tensor, place: Tensor) -> Tensor:
    """Frobenius norm of each row over the chosen positions, `[B]`, float64."""
    return torch.linalg.vector_norm(tensor.masked_fill(~place, 0), dim=(1, 2, 3), dtype=torch.float64)
