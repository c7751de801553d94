"""Multiply rows of GGUF tensors by factors, in every format whose blocks have half-precision scales.

The weights of a block are `d · (…)` or `d · (…) − m · (…)` with integers in the brackets. To multiply a row, d and m
are multiplied (they may be negative). No integer changes, and nothing is quantised again. The layouts of blocks are
those of `ggml-common.h` in llama.cpp. Formats with other scales (IQ1_M, MXFP4, NVFP4) are not supported.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dposcope.errors import DposcopeError


@dataclass(frozen=True)
class Blocks:
    """One block format."""

    size: int
    """Bytes of a block."""
    scales: tuple[int, ...]
    """Offsets of its half-precision scales, in bytes."""


BLOCKS = {
    "Q4_0": Blocks(18, (0,)),
    "Q4_1": Blocks(20, (0, 2)),
    "Q5_0": Blocks(22, (0,)),
    "Q5_1": Blocks(24, (0, 2)),
    "Q8_0": Blocks(34, (0,)),
    "Q2_K": Blocks(84, (80, 82)),
    "Q3_K": Blocks(110, (108,)),
    "Q4_K": Blocks(144, (0, 2)),
    "Q5_K": Blocks(176, (0, 2)),
    "Q6_K": Blocks(210, (208,)),
    "IQ1_S": Blocks(50, (0,)),
    "IQ2_XXS": Blocks(66, (0,)),
    "IQ2_XS": Blocks(74, (0,)),
    "IQ2_S": Blocks(82, (0,)),
    "IQ3_XXS": Blocks(98, (0,)),
    "IQ3_S": Blocks(110, (0,)),
    "IQ4_NL": Blocks(18, (0,)),
    "IQ4_XS": Blocks(136, (0,)),
    "TQ1_0": Blocks(54, (52,)),
    "TQ2_0": Blocks(66, (64,)),
}
FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True, eq=False)
class Scaled:
    """Bytes of a tensor after scaling."""

    data: NDArray[np.uint8]
    """With the shape of the original."""
    rounding: float
    """Largest |stored − exact| of a scale (of a weight, in float formats) over the largest |exact| of its kind."""


def scale_rows(data: NDArray[np.uint8], kind: str, factors: NDArray[np.float64]) -> Scaled:
    """Multiply row i of a tensor by factor i.

    Args:
        data: the stored bytes, `[rows, bytes per row]`; not changed.
        kind: name of the format, such as `Q4_K`.
        factors: `[rows]`, finite; a row whose factor is 1 keeps its bytes.

    Raises:
        DposcopeError: the format has no scales that can be multiplied, or a product is out of its range.
    """
    if kind in FLOATS:
        return _scale_floats(data, kind, factors[:, None])
    layout = BLOCKS.get(kind)
    if layout is None:
        raise DposcopeError(
            f"GGUF format {kind} has no half-precision scales to multiply; quantise to one of "
            f"{', '.join([*FLOATS, *list(BLOCKS)[:10]])}, or fold the unquantised checkpoint and convert that"
        )
    new, rounding = data.copy(), 0.0
    blocks = new.reshape(len(data), -1, layout.size)
    for start in layout.scales:
        field = blocks[:, :, start : start + 2]
        scaled = _rounded(_halves(field).astype(np.float64) * factors[:, None], "F16")
        field[factors != 1] = scaled.data.reshape(field.shape)[factors != 1]
        rounding = max(rounding, scaled.rounding)
    return Scaled(new, rounding)


def scale_columns(data: NDArray[np.uint8], kind: str, factors: NDArray[np.float64]) -> Scaled:
    """Multiply column i of a float tensor by factor i; see `scale_rows`.

    Raises:
        DposcopeError: a block format, whose scales belong to rows.
    """
    if kind not in FLOATS:
        raise DposcopeError(
            f"GGUF format {kind} has scales of rows only, so its columns cannot be multiplied; use {', '.join(FLOATS)}"
        )
    return _scale_floats(data, kind, factors[None, :])


def _scale_floats(data: NDArray[np.uint8], kind: str, factors: NDArray[np.float64]) -> Scaled:
    scaled = _rounded(_values(data, kind).astype(np.float64) * factors, kind)
    # Values with factor 1 keep their bits, for example NaN payloads.
    kept = np.repeat(np.broadcast_to(factors == 1, _values(data, kind).shape), 4 if kind == "F32" else 2, axis=1)
    return Scaled(np.where(kept, data, scaled.data.reshape(data.shape)), scaled.rounding)


def _rounded(exact: NDArray[np.float64], kind: str) -> Scaled:
    """Numbers in a float format, as bytes along the last axis."""
    with np.errstate(over="ignore"):
        if kind == "BF16":
            stored = _as_bf16(exact.astype(np.float32))
        else:
            stored = exact.astype("<f2" if kind == "F16" else "<f4")
    raw = np.ascontiguousarray(stored).view(np.uint8)
    read = _values(raw.reshape(*exact.shape[:-1], -1), kind).astype(np.float64)
    finite = np.isfinite(exact)
    if not np.isfinite(read[finite]).all():
        raise DposcopeError(f"a gain takes a scale out of the range of {kind}; use a weaker edit, or a wider format")
    largest = float(np.abs(exact[finite]).max(initial=0.0))
    error = float(np.abs(read - exact)[finite].max(initial=0.0))
    return Scaled(raw, error / largest if largest > 0 else 0.0)


def _values(data: NDArray[np.uint8], kind: str) -> NDArray[np.floating]:
    if kind == "BF16":
        return (np.ascontiguousarray(data).view("<u2").astype(np.uint32) << 16).view(np.float32)
    return np.ascontiguousarray(data).view("<f2" if kind == "F16" else "<f4")


def _halves(field: NDArray[np.uint8]) -> NDArray[np.floating]:
    return _values(field, "F16")[..., 0]


def _as_bf16(numbers: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Rounded to nearest, ties to even."""
    bits = numbers.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
