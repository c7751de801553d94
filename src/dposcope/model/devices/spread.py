"""A model that is spread over the GPUs of this machine when it is loaded.

accelerate puts the parts on their devices, with hooks that move what each part reads. Only GPUs are used: parts on the
CPU or on a disk would make every pass many times slower.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from accelerate import dispatch_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from dposcope.errors import DposcopeError, plural
from dposcope.model.checks.layout import find_layout
from dposcope.model.devices.placement import USABLE, PartBytes, Placement, ends, split
from dposcope.model.language_model import LanguageModel
from dposcope.model.layout.blocks import block_modules
from dposcope.model.layout.projections import is_projection
from dposcope.model.layout.table import Layout
from dposcope.model.residual.streams import residual_streams
from dposcope.processes.launcher import world_size
from dposcope.protocols import DeviceMap, check_choice

_BITS: Final = {"4bit": 4.3, "8bit": 8.1}
"""Bits of a weight that bitsandbytes quantises on loading, its scales among them."""
_SCALES: Final = 0.5
"""Bits of scales for each weight of a checkpoint that is stored quantised."""
_SHARDED: Final = (
    "device_map 'auto' gives one process all GPUs, and here are several processes; start one (without torchrun or "
    "accelerate launch), or leave --device-map out"
)


def free_memory() -> dict[torch.device, int]:
    """Every GPU of this machine → its free bytes."""
    return {
        torch.device("cuda", number): torch.cuda.mem_get_info(number)[0] for number in range(torch.cuda.device_count())
    }


def is_spread_over(device_map: DeviceMap | None, device: str | torch.device) -> bool:
    """Whether a model is to be spread: where it is asked for, and there are several GPUs.

    Raises:
        DposcopeError: the device map is unknown, a device is named beside it, or there are several processes.
    """
    if device_map is None:
        return False
    check_choice("device_map", device_map, ("auto",))
    if str(device) not in ("auto", "cuda"):
        raise DposcopeError(
            f"device_map 'auto' takes all GPUs, and device {device} is one device; leave one of the two out"
        )
    if world_size() > 1:
        raise DposcopeError(_SHARDED)
    return torch.cuda.device_count() > 1


@dataclass(frozen=True)
class Stored:
    """How many bytes the weights of a model take when it is loaded."""

    itemsize: int
    """Bytes of a plain weight."""
    bits: float | None = None
    """Bits of a weight of a projection in a block, with its scales; None: plain."""

    @classmethod
    def of(cls, itemsize: int, quantise: str | None, method: Mapping[str, Any] | None) -> "Stored":
        """From what is known before loading.

        Args:
            itemsize: bytes of a plain weight.
            quantise: how it is quantised on loading.
            method: `quantization_config` of a checkpoint that stays quantised.
        """
        if quantise is not None:
            return cls(itemsize, _BITS[quantise])
        if method is None:
            return cls(itemsize)
        return cls(itemsize, float(method.get("bits") or (4 if method.get("load_in_4bit") else 8)) + _SCALES)

    def part_bytes(self, model: PreTrainedModel, layout: Layout) -> PartBytes:
        """Of each part of a model, which may be without weights."""
        counted: set[int] = set()

        def of(module: nn.Module, *, block: bool) -> int:
            total = 0.0
            for owner in module.modules():
                coded = block and self.bits is not None and is_projection(owner)
                for tensor in (*owner.parameters(recurse=False), *owner.buffers(recurse=False)):
                    if id(tensor) not in counted:
                        counted.add(id(tensor))
                        total += self._bytes(tensor, coded=coded and tensor.ndim == 2)
            return round(total)

        blocks = tuple(of(one, block=True) for one in block_modules(model, layout))
        last = sum(of(one, block=False) for one in ends(model, layout))
        return PartBytes(of(model, block=False), blocks, last)

    def _bytes(self, tensor: Tensor, *, coded: bool) -> float:
        if coded and self.bits is not None:
            return tensor.numel() * self.bits / 8
        return tensor.numel() * (self.itemsize if tensor.is_floating_point() else tensor.itemsize)


def outlined(config: PreTrainedConfig) -> PreTrainedModel:
    """A model without weights."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def placed(model: PreTrainedModel, name: str, stored: Stored, like: Placement | None = None) -> dict[str, torch.device]:
    """Module → device for every part of a model.

    Args:
        model: it may be without weights.
        name: what the user calls it.
        stored: what its weights take.
        like: where the parts of its base are; None: wherever there is room.

    Raises:
        DposcopeError: it does not fit into the GPUs, or cannot be divided between blocks.
    """
    layout = find_layout(model)
    streams = residual_streams(model)
    if streams is not None and streams.meet_in_model:
        raise DposcopeError(
            f"{name} passes on several residual streams, which come together after the last block, so it cannot be "
            "spread over GPUs; leave --device-map out"
        )
    if like is None:
        parts, free = stored.part_bytes(model, layout), free_memory()
        like = split(parts, free)
        if like is None:
            raise DposcopeError(_too_large(name, parts, free, stored))
    return like.device_map(model, layout)


def _too_large(name: str, parts: PartBytes, free: Mapping[torch.device, int], stored: Stored) -> str:
    """Why a model does not fit, and the mend."""
    mends = [
        *([] if stored.bits is not None else ["load it in 4 or 8 bits (--quantise)"]),
        *([] if stored.itemsize == 2 else ["in half precision (--dtype bfloat16)"]),
        "give it more GPUs",
    ]
    room = ", ".join(_gigabytes(one) for one in free.values())
    return (
        f"{name} has {_gigabytes(parts.total)} of weights, {_gigabytes(max(parts.blocks))} in its largest block, and "
        f"{plural(len(free), 'GPU')} have {room} free, of which {USABLE:.0%} may be weights: {', or '.join(mends)}"
    )


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"


def spread_(model: PreTrainedModel, places: Mapping[str, torch.device]) -> None:
    """Move the parts of a model that is in main memory to their devices.

    Args:
        model: it is changed.
        places: see `placed`.
    """
    own: dict[str, Any] = {name: str(device) for name, device in places.items()}
    dispatch_model(model, own, main_device=next(iter(own.values())), skip_keys=_not_moved(model))


def _not_moved(model: PreTrainedModel) -> Any:
    return model._skip_keys_device_placement  # pyright: ignore[reportPrivateUsage]


def check_whole_blocks(lm: LanguageModel) -> None:
    """Refuse a model in memory of which a block is on several devices.

    Raises:
        DposcopeError: it is so.
    """
    for number, block in enumerate(lm.blocks):
        devices = {str(one.device) for one in block.parameters()}
        if len(devices) > 1:
            raise DposcopeError(
                f"block {number} of the model is on {' and '.join(sorted(devices))}; keep blocks whole, with "
                f"no_split_module_classes=[{type(block).__name__!r}] where its device map is made"
            )
