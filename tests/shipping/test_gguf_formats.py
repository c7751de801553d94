"""Scaled rows of every block format, against what the gguf package reads before and after."""

import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from dposcope.errors import DposcopeError
from dposcope.shipping.gguf_formats import BLOCKS, FLOATS, scale_columns, scale_rows

ROWS, PER_ROW = 6, 3
FACTORS = np.array([1.0, 0.0, 0.3, -1.7, 2.5, 1.0])


def random_blocks(kind: str, seed: int = 0) -> np.ndarray:
    """Random integers under scales well inside half precision."""
    draw = np.random.default_rng(seed)
    layout = BLOCKS[kind]
    blocks = draw.integers(0, 256, (ROWS, PER_ROW, layout.size), dtype=np.uint8)
    for start in layout.scales:
        scales = draw.uniform(0.01, 1, (ROWS, PER_ROW, 1)) * draw.choice([-1, 1], (ROWS, PER_ROW, 1))
        blocks[:, :, start : start + 2] = scales.astype(np.float16).view(np.uint8)
    return blocks.reshape(ROWS, -1)


def read(data: np.ndarray, kind: str) -> np.ndarray:
    return dequantize(data, GGMLQuantizationType[kind]).astype(np.float64)


@pytest.mark.parametrize("kind", BLOCKS)
def test_rows_are_multiplied_up_to_the_rounding_of_scales(kind):
    data = random_blocks(kind)
    kept = data.copy()
    scaled = scale_rows(data, kind, FACTORS)
    assert np.array_equal(data, kept)
    before, after = read(data, kind), read(scaled.data, kind)
    assert np.isfinite(before).all()
    # Of two-scale formats each part is rounded: bounded by the parts, not by their difference.
    parts = sum(np.abs(read(only(data, kind, start), kind)) for start in BLOCKS[kind].scales)
    assert (np.abs(after - FACTORS[:, None] * before) <= 2**-10.99 * np.abs(FACTORS)[:, None] * parts + 1e-9).all()
    assert np.abs(after - FACTORS[:, None] * before).max() > 0
    assert 0 < scaled.rounding <= 2**-11


def only(data: np.ndarray, kind: str, start: int) -> np.ndarray:
    """The same blocks with every scale but one at 0."""
    blocks = data.copy().reshape(ROWS, PER_ROW, -1)
    for other in BLOCKS[kind].scales:
        if other != start:
            blocks[:, :, other : other + 2] = 0
    return blocks.reshape(ROWS, -1)


@pytest.mark.parametrize("kind", BLOCKS)
def test_no_byte_but_those_of_scales_changes(kind):
    data = random_blocks(kind)
    changed = (scale_rows(data, kind, FACTORS).data != data).reshape(ROWS, PER_ROW, -1)
    fields = {start + byte for start in BLOCKS[kind].scales for byte in (0, 1)}
    assert set(changed.any((0, 1)).nonzero()[0]) == fields
    assert not changed[FACTORS == 1].any()
    assert changed[FACTORS != 1].any((1, 2)).all()


@pytest.mark.parametrize("kind", BLOCKS)
def test_sizes_are_the_formats_own(kind):
    assert GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1] == BLOCKS[kind].size


@pytest.mark.parametrize("kind", BLOCKS)
def test_powers_of_two_and_signs_are_exact(kind):
    data = random_blocks(kind)
    factors = np.array([1.0, 2.0, 0.5, -1.0, -4.0, -0.25])
    scaled = scale_rows(data, kind, factors)
    assert np.array_equal(read(scaled.data, kind), factors[:, None] * read(data, kind))
    assert scaled.rounding == 0


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("by", ["rows", "columns"])
def test_float_formats_round_each_weight_once(kind, by):
    import torch

    dtype = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind]
    numbers = torch.randn(ROWS, ROWS, generator=torch.Generator().manual_seed(0)).to(dtype)
    data = numbers.contiguous().view(torch.uint8).numpy().reshape(ROWS, -1)
    scaled = (scale_rows if by == "rows" else scale_columns)(data, kind, FACTORS)
    factors = torch.from_numpy(FACTORS)
    exact = numbers.double() * (factors[:, None] if by == "rows" else factors)
    found = torch.frombuffer(bytearray(scaled.data.tobytes()), dtype=dtype).reshape(ROWS, ROWS)
    assert torch.equal(found, exact.to(dtype))
    error = (found.double() - exact).abs().max() / exact.abs().max()
    assert scaled.rounding == pytest.approx(float(error))


def test_a_number_that_is_not_touched_keeps_its_bits():
    """Not-a-number with a payload, say."""
    data = np.array([[0x01, 0x7E, 0x00, 0x3C], [0x02, 0xFE, 0x00, 0x3C]], dtype=np.uint8)
    kept = scale_rows(data, "F16", np.array([1.0, 1.0]))
    assert np.array_equal(kept.data, data)


@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0", "F16"])
def test_scales_out_of_range_are_refused(kind):
    data = random_blocks(kind) if kind in BLOCKS else np.ones((ROWS, 4), np.float16).view(np.uint8)
    with pytest.raises(DposcopeError, match="out of the range of F16; use a weaker edit"):
        scale_rows(data, kind, np.full(ROWS, 1e7))


def test_a_scale_too_small_for_half_precision_is_rounded_and_told():
    """Below 6e-5 half precision loses bits, and below 3e-8 all of them."""
    data = random_blocks("Q8_0")
    scaled = scale_rows(data, "Q8_0", np.array([1e-9, 1e-9, 1e-9, 1e-9, 1e-9, 1e-9]))
    assert not read(scaled.data, "Q8_0").any()
    assert scaled.rounding == 1


@pytest.mark.parametrize("kind", ["IQ1_M", "MXFP4", "I32"])
def test_formats_without_such_scales_are_refused(kind):
    with pytest.raises(DposcopeError, match=f"GGUF format {kind} has no half-precision scales to multiply; quantise"):
        scale_rows(np.zeros((2, 56), np.uint8), kind, np.ones(2))


def test_columns_of_blocks_are_refused():
    with pytest.raises(DposcopeError, match="Q4_0 has scales of rows only"):
        scale_columns(random_blocks("Q4_0"), "Q4_0", np.ones(96))
