"""The key-value cache of a model, as tensors that can be read and replaced.

The tensors of a cache are a flat list: keys and values of the first layer, then of the second, and so on.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, LinearAttentionCacheLayerMixin

from dposcope.errors import DposcopeError

_NAMES = ("cache", "past_key_values")
"""Names of the argument that takes the cache: from transformers 5.24 on, and before. The old one is still taken."""


def cache_argument(module: nn.Module) -> str:
    """Name of the argument that takes the key-value cache of a model."""
    parameters = _argument_names(module)
    return next((name for name in _NAMES if name in parameters), _NAMES[-1])


def takes_cache(model: nn.Module) -> bool:
    """Whether a model keeps keys and values between steps; GPT-1 has no such argument, and reads all again."""
    parameters = inspect.signature(type(model).forward).parameters.values()
    return any(one.name in _NAMES or one.kind is one.VAR_POSITIONAL for one in parameters)


def new_cache(model: PreTrainedModel) -> DynamicCache:
    """An empty cache for a text that begins.

    What blocks keep of another text in themselves (RecurrentGemma), they forget.
    """
    config = model.config.get_text_config()
    forget(model)
    return _minimax_cache()() if config.model_type == "minimax" else DynamicCache(config=config)


@cache
def _minimax_cache() -> type[DynamicCache]:
    """MiniMax has a class of its own. Its length is that of the first block, which keeps no keys where its attention is
    linear: the mask of the others would be too short, and padding would be read."""
    from transformers.models.minimax.modeling_minimax import MiniMaxCache

    class Counted(MiniMaxCache):
        def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 — all have one length
            return max((one.get_seq_length() for one in self.layers if isinstance(one, DynamicLayer)), default=0)

        def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:  # noqa: ARG002
            return self.get_seq_length() + query_length, 0

    return Counted


_STATES: Final = ("conv1d_state", "recurrent_states")
"""Attributes of blocks of RecurrentGemma."""


def forget(model: nn.Module) -> None:
    """Drop the states of the last text where blocks keep them in themselves, and not in a cache (RecurrentGemma).

    A text of one token would begin with them; and they hold what a pass keeps for its gradients, and cannot be copied
    then.
    """
    for module, name in state_places(model):
        setattr(module, name, None)


def state_places(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where blocks keep states of a text in themselves, as a module and the name of its attribute (RecurrentGemma)."""
    return [(module, name) for module in model.modules() for name in _STATES if name in vars(module)]


def given_cache(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a call, by either name; None without one."""
    return next((arguments[name] for name in _NAMES if arguments.get(name) is not None), None)


def named_arguments(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a call of a model, those given by position by their names, too."""
    return dict(zip(_argument_names(module), args, strict=False)) | dict(kwargs)


def _argument_names(module: nn.Module) -> tuple[str, ...]:
    """Names of the arguments of a module's `forward`, in order."""
    function = getattr(module.forward, "__func__", None)
    # A `forward` that was put in the place of the class's own (accelerate's) is looked at anew: it may be replaced.
    return tuple(inspect.signature(module.forward).parameters) if function is None else _names_of(function)[1:]


@lru_cache
def _names_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Kept, since it is asked in every forward pass, and takes a tenth of a millisecond."""
    return tuple(inspect.signature(function).parameters)


def check_keys_and_values(model: PreTrainedModel) -> None:
    """Refuse a model whose cache holds more than keys and values, as that of a state space or a convolution does, and
    one without a cache.

    Raises:
        DposcopeError: it does, or has none.
    """
    if not takes_cache(model):
        raise DposcopeError(
            f"models of the type {model.config.model_type} keep no keys and values, and PPLM shifts them; sample the "
            "pairs (--method sample)"
        )
    _layers(DynamicCache(config=model.config.get_text_config()))


def _layers(cache: DynamicCache) -> list[DynamicLayer]:
    # The layer of a block with attention and a state space is of both classes. Layers of a model's own keep more beside
    # keys and values (compressed ones of DeepSeek V4).
    layers = [
        layer
        for layer in cache.layers
        if isinstance(layer, DynamicLayer)
        and not isinstance(layer, LinearAttentionCacheLayerMixin)
        and type(layer).__module__ == DynamicLayer.__module__
    ]
    if len(layers) < len(cache.layers):
        raise DposcopeError(
            "the cache of this model holds more than keys and values (linear attention, a state space, a convolution "
            "or compressed keys), and PPLM shifts keys and values; sample the pairs (--method sample)"
        )
    return layers


def cached_tensors(cache: DynamicCache) -> list[Tensor]:
    """Cached keys and values, each `[B, heads, S, head width]`; S is shorter in layers with a sliding window."""
    tensors = [tensor for layer in _layers(cache) for tensor in (layer.keys, layer.values)]
    return [tensor for tensor in tensors if tensor is not None]


def copied(cache: DynamicCache) -> DynamicCache:
    """A cache with the same tensors. It can grow without changing the original, as growing replaces tensors."""
    twin = copy.copy(cache)
    twin.layers = [copy.copy(layer) for layer in cache.layers]
    return twin


def with_tensors(cache: DynamicCache, tensors: Sequence[Tensor]) -> DynamicCache:
    """A cache at the same position in the text with other keys and values."""
    twin = copied(cache)
    for layer, keys, values in zip(_layers(twin), tensors[::2], tensors[1::2], strict=True):
        layer.keys, layer.values = keys, values
    return twin


def positions_to_shift(cache: DynamicCache, mask: Tensor, window: int) -> list[Tensor]:
    """Cached positions of each tensor that may be shifted, `[B, 1, S, 1]`, on its device: the last `window` real
    tokens, or all."""
    real = mask == 1
    if window > 0:
        real = real.clone()
        real[:, :-window] = False
    return [real[:, -tensor.shape[-2] :, None].unsqueeze(1).to(tensor.device) for tensor in cached_tensors(cache)]


def row_norms(tensor: Tensor, place: Tensor) -> Tensor:
    """Frobenius norm of each row over the chosen positions, `[B]`, float64."""
    return torch.linalg.vector_norm(tensor.masked_fill(~place, 0), dim=(1, 2, 3), dtype=torch.float64)
