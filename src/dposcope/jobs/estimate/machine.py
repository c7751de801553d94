"""A machine's rates: how fast it multiplies, how fast it reads memory, and how much memory it has."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from dposcope.errors import plural
from dposcope.model.load import native_bfloat16
from dposcope.protocols import DeviceMap

GIB = 2**30

_LONG_ENOUGH, _LARGEST = 0.05, 2048
"""Seconds of a product that is measured, and rows of the largest one."""
_LONG = 1 << 26
"""Numbers of four bytes that are added up to measure the memory: more than any cache holds."""


@dataclass(frozen=True)
class Machine:
    """The properties of a machine that estimates need."""

    name: str
    operations: float
    """Floating-point operations a second of a large matrix product, in the precision that models run in."""
    bandwidth: float
    """Bytes a second that are read from memory; of the GPU if there is one."""
    memory: int
    """Bytes; of the GPU if there is one."""
    processor_bytes: int
    """Bytes per weight of a running model: 2 if bfloat16 is native, else 4."""
    gpu: bool = False

    @classmethod
    def measured(
        cls, device: str = "auto", *, dtype: torch.dtype | None = None, device_map: DeviceMap | None = None
    ) -> "Machine":
        """This machine, measured by matrix products and a sum for about a second.

        Args:
            device: device of the steps; auto: a GPU if there is one.
            dtype: precision of the products; None: bfloat16 if it is native, else float32.
            device_map: auto: the memories of all GPUs add up. They work one after the other, so the rates are of one.
        """
        on_gpu = torch.cuda.is_available() and not device.startswith("cpu")
        place = torch.device("cuda" if on_gpu else "cpu")
        precision = dtype or (torch.bfloat16 if native_bfloat16(place) else torch.float32)
        size, best = 128, 0.0
        # Where kernels are slow, as those of bfloat16 without its instructions, a small product says enough.
        while best < _LONG_ENOUGH and size < _LARGEST:
            size *= 2
            a, b = (torch.ones(size, size, device=place, dtype=precision) for _ in "ab")
            best = _least_seconds(lambda a=a, b=b: float((a @ b)[0, 0]))
        long = torch.ones(_LONG, device=place, dtype=torch.float32)
        bandwidth = long.nbytes / _least_seconds(lambda: float(long.sum()))
        if on_gpu:
            count = 1 if device_map is None else torch.cuda.device_count()
            total = count * torch.cuda.get_device_properties(place).total_memory
            name = f"{count} × {torch.cuda.get_device_name(place)}" if count > 1 else torch.cuda.get_device_name(place)
        else:
            total, name = _memory(), plural(torch.get_num_threads(), "CPU thread")
        return cls(name, 2 * size**3 / best, bandwidth, total, precision.itemsize, on_gpu)


def _least_seconds(run: Callable[[], float]) -> float:
    """Of four runs; the first one also wakes threads and libraries. A GPU has answered when a number is there."""
    best = float("inf")
    for _ in range(4):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def _memory() -> int:
    """Bytes of main memory; a huge number if the system does not report it (Windows)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 1 << 62
