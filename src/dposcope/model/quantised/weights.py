"""Quantised layers: which they are, and the numbers that their codes stand for.

A quantised layer computes what a `Linear` computes, and keeps its weight as codes and scales in a form of its own.
Layers of bitsandbytes are dequantised by its own functions. A layer of any other package is read by what it writes for
one unit of each input, which is the row of its weight.
"""

import copy
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from dposcope.errors import DposcopeError, first_line, is_memory
from dposcope.model.devices.copies import OF_HOOKS

PLAIN: Final = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""Types of weights that are the numbers themselves."""
UNQUANTISED: Final = "load the model unquantised (GGUF files are dequantised on loading), and without adapters"
"""The mend where a layer's weight cannot be read."""
_AT_ONCE: Final = 256
"""Units of input that a layer is read with at a time."""


def is_quantised(module: nn.Module) -> bool:
    """Whether a module is a linear layer whose weight is not kept as plain numbers."""
    own = vars(module)
    # A wrapper, such as PEFT's, has modules inside.
    if not {"in_features", "out_features"} <= own.keys() or own["_modules"]:
        return False
    weight = own["_parameters"].get("weight")
    # bitsandbytes may keep its codes in a tensor of floats, and its parameters are of classes of its own.
    return weight is None or weight.dtype not in PLAIN or type(weight).__module__.partition(".")[0] != "torch"


def quantised_weight(module: nn.Module) -> Tensor:
    """The numbers of a quantised layer's weight, `[outputs, inputs]`: a new tensor, which nothing keeps.

    Raises:
        DposcopeError: the layer cannot be read.
    """
    own = _of_bitsandbytes(module)
    return _written(module, int(vars(module)["in_features"])) if own is None else own()


def check_readable(module: nn.Module) -> None:
    """Refuse a quantised layer that cannot be read, without reading all of it.

    Raises:
        DposcopeError: it cannot.
    """
    if _of_bitsandbytes(module) is None:
        _written(module, 1)


def held_by(model: nn.Module) -> dict[int, object]:
    """What quantised layers hold beside parameters and buffers, such as scales, by id: a second model shares it where
    this is the memo of its `deepcopy`."""
    return {
        id(held): held
        for module in model.modules()
        if is_quantised(module)
        for name, held in vars(module).items()
        if not isinstance(held, dict) and name not in OF_HOOKS  # those of parameters and hooks
    }


def scales(model: nn.Module) -> dict[str, Tensor]:
    """Name → each tensor of a quantised layer that is no parameter: with the codes, they decide its weight."""
    return {
        f"{name}.{key}": tensor
        for name, module in model.named_modules()
        if is_quantised(module)
        for key, tensor in module.state_dict().items()
        if key not in vars(module)["_parameters"]
    }


def _of_bitsandbytes(module: Any) -> Callable[[], Tensor] | None:
    """The package's own function for a layer; None for one of another package, or in a form that it does not take."""
    bnb: Any = sys.modules.get("bitsandbytes")  # who made such a layer has imported it
    if bnb is None:
        return None
    if isinstance(module, bnb.nn.Linear4bit):
        state = module.weight.quant_state
        # Codes that were packed anew for some processors are in another order; see `loading.in_one_form`.
        packed = state is None or vars(state).get("packing_format_for_cpu")
        return None if packed else partial(bnb.functional.dequantize_4bit, module.weight.data, state)
    if isinstance(module, bnb.nn.Linear8bitLt):
        # The first run moves the scales from the weight to the state.
        factors = module.weight.SCB if module.state.SCB is None else module.state.SCB
        return None if factors is None else partial(bnb.functional.int8_vectorwise_dequant, module.weight.data, factors)
    return None


@torch.no_grad()
def _written(module: nn.Module, count: int) -> Tensor:
    """What a layer writes without its bias for one unit of each of its first `count` inputs, `[outputs, count]`."""
    bare = copy.copy(module)
    vars(bare).update({kind: _without_bias(vars(module)[kind]) for kind in ("_parameters", "_buffers")})
    inputs = int(vars(module)["in_features"])
    tensors = [*module.parameters(), *module.buffers()]
    kind = next((one.dtype for one in tensors if one.dtype in PLAIN), torch.float32)
    device = tensors[0].device if tensors else torch.device("cpu")
    parts: list[Tensor] = []
    try:
        for start in range(0, count, _AT_ONCE):
            units = torch.zeros(min(_AT_ONCE, count - start), inputs, dtype=kind, device=device)
            units[torch.arange(len(units)), torch.arange(start, start + len(units))] = 1
            parts.append(bare.forward(units))  # not the call: hooks on the layer stay out
    except Exception as error:  # a layer of any package may fail anywhere
        if is_memory(error):
            raise
        weight = vars(module)["_parameters"].get("weight")
        of = "" if weight is None else f" with {str(weight.dtype).removeprefix('torch.')}"
        raise DposcopeError(
            f"an output projection is a {type(module).__name__}{of}, not a Linear or Conv1D of plain numbers, and "
            f"cannot be read ({first_line(error)}): {UNQUANTISED}"
        ) from error
    return torch.cat(parts).T


def _without_bias(tensors: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    return {**tensors, "bias": None} if "bias" in tensors else tensors
