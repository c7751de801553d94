"""An edit's gains in a GGUF file: only the scale factors of rows of `ffn_up` change.

In a gated model m_i = act(gate_i) · up_i, so a gain of neuron i is a factor of row i of the up projection. Without a
gate it is a factor of column i of the down projection, which is possible in float formats only, not in block formats.
"""

import shutil
import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dposcope.artefacts import check_path
from dposcope.errors import DposcopeError, first_line
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.model.checks.gguf import check_gguf
from dposcope.shipping.compressed import only_gains
from dposcope.shipping.gguf_formats import FLOATS, Scaled, scale_columns, scale_rows
from dposcope.shipping.origin import gguf_origin
from dposcope.shipping.place import fresh
from dposcope.shipping.result import Shipped

_ALTERNATIVE = "fold the unquantised checkpoint (dposcope fold FOLDER), then convert and quantise the result"


def fold_gguf(source: str | Path, edit: Edit | Gains, out: str | Path) -> Shipped:
    """Write a GGUF file with the gains in it. It differs from the original in scale factors only.

    It needs the memory of one tensor. It is exact up to the rounding of the half-precision scales; the result has the
    largest error in `rounding`.

    Args:
        source: the file of a gated model in any format of `gguf_formats`, or of a model without a gate in F32, F16 or
            BF16.
        edit: gains of neurons only.
        out: the new file.

    Raises:
        DposcopeError: the edit has parts that the file cannot hold (ablations, gains of heads), or another shape; a
            mixture of experts; a norm between up and down projection (BitNet); the file is damaged or split; `out`
            exists; the disk is full.
    """
    check_path(source)
    check_path(out)
    source, out = Path(source), Path(out)
    if not source.exists():
        raise DposcopeError(f"there is no file {source}; check the path")
    gains = only_gains(edit if isinstance(edit, Edit) else Edit.of(edit), "a GGUF file", _ALTERNATIVE)
    reader = _open(source)
    plan = _Plan.of(reader, gains)
    notes = (*gguf_origin(edit, plan.architecture, gains), *plan.notes)
    rounding = 0.0
    with fresh(out) as part:
        shutil.copyfile(source, part)
        with part.open("r+b") as stream:
            for tensor, factors, columns in plan.steps:
                scaled = _scaled(tensor, factors, columns)
                stream.seek(tensor.data_offset)
                stream.write(scaled.data.tobytes())
                rounding = max(rounding, scaled.rounding)
    return Shipped("gguf", out, len(plan.steps), rounding, notes)


class _Plan:
    """The tensors to change, and their factors."""

    def __init__(self, architecture: str, steps: list[tuple[Any, NDArray[np.float64], bool]], notes: list[str]) -> None:
        self.architecture, self.steps, self.notes = architecture, steps, tuple(notes)

    @classmethod
    def of(cls, reader: Any, gains: Gains) -> "_Plan":
        """Make the plan, with all checks."""
        architecture = str(_field(reader, "general.architecture"))
        blocks = int(_field(reader, f"{architecture}.block_count") or 0)
        if int(_field(reader, "split.count") or 1) > 1:
            raise DposcopeError("this GGUF file is one part of several; join them first: llama-gguf-split --merge")
        if len(gains.values) != blocks:
            raise DposcopeError(
                f"gains of {len(gains.values)} blocks do not fit a file of {blocks}; use an edit made for this model"
            )
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        steps: list[tuple[Any, NDArray[np.float64], bool]] = []
        # Blocks may have MLPs of several widths; gains are as many as the widest has, and 1 where a neuron is absent.
        downs = [tensors.get(f"blk.{block}.ffn_down.weight") for block in range(blocks)]
        widest = max((int(down.shape[0]) for down in downs if down is not None), default=0)
        for block in gains.touched.mask.any(1).nonzero().squeeze(1).tolist():
            factors = gains.values[block].double().numpy()
            steps += _steps(tensors, block, factors, widest, architecture)
        notes = (
            []
            if architecture in _TESTED
            else [f"architecture {architecture} is not tested; check what the model generates"]
        )
        return cls(architecture, steps, notes)


_TESTED = ("llama", "gemma2", "gemma3", "qwen2", "qwen3", "gpt2")


def _steps(
    tensors: dict[str, Any], block: int, factors: NDArray[np.float64], widest: int, architecture: str
) -> list[tuple[Any, NDArray[np.float64], bool]]:
    stem = f"blk.{block}."
    if f"{stem}ffn_up_exps.weight" in tensors or f"{stem}ffn_gate_up_exps.weight" in tensors:
        raise DposcopeError("this file holds a mixture of experts, which edits do not support; use another model")
    up, down = tensors.get(f"{stem}ffn_up.weight"), tensors.get(f"{stem}ffn_down.weight")
    if up is None or down is None:
        raise DposcopeError(f"the file has no {stem}ffn_up and ffn_down, so its layout is unknown; {_ALTERNATIVE}")
    neurons = int(down.shape[0])
    if len(factors) != widest:
        raise DposcopeError(
            f"gains of {len(factors)} neurons per block do not fit a file with {widest}; use an edit made for "
            f"this model"
        )
    if (factors[neurons:] != 1).any():
        raise DposcopeError(
            f"gains change neurons of block {block} beyond its {neurons}; use an edit made for this model"
        )
    factors = factors[:neurons]
    if int(up.shape[1]) == 2 * neurons:
        raise DposcopeError(
            f"this file keeps gate and up projection in one tensor, which is not supported; {_ALTERNATIVE}"
        )
    if f"{stem}ffn_gate.weight" in tensors:
        norm = f"{stem}ffn_sub_norm"
        if any(name.startswith(f"{norm}.") for name in tensors):
            # Of BitNet: a row of ffn_up would change what the norm divides all neurons of the block by.
            raise DposcopeError(
                f"{norm} stands between ffn_up and ffn_down, so rows of ffn_up cannot hold gains; {_ALTERNATIVE}"
            )
        # up = W x + b, so the bias is multiplied too.
        bias = tensors.get(f"{stem}ffn_up.bias")
        return [(tensor, factors, False) for tensor in (up, bias) if tensor is not None]
    if down.tensor_type.name not in FLOATS:
        raise DposcopeError(
            f"{architecture} has no gate, so gains are factors of columns of ffn_down, but format "
            f"{down.tensor_type.name} has scales of rows only; {_ALTERNATIVE}"
        )
    return [(down, factors, True)]


def _scaled(tensor: Any, factors: NDArray[np.float64], columns: bool) -> Scaled:
    rows = 1 if columns and tensor.data.ndim == 1 else len(tensor.data)
    data = np.ascontiguousarray(tensor.data).view(np.uint8).reshape(rows, -1)
    return (scale_columns if columns else scale_rows)(data, tensor.tensor_type.name, factors)


def _open(source: Path) -> Any:
    if find_spec("gguf") is None:
        raise DposcopeError("reading GGUF needs the gguf package; install it with: pip install 'dposcope[gguf]'")
    from gguf import GGUFEndian, GGUFReader, GGUFValueType

    class Reader(GGUFReader):
        """Passes over the items of arrays. A vocabulary has a million, which the library reads one by one for
        seconds, and no array is needed here."""

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
            if raw_type != GGUFValueType.ARRAY or self.byte_order == "S":
                return super()._get_field_parts(orig_offs, raw_type)
            mapped: Any = self.data  # numpy tells Python 3.12 and newer that it is a buffer
            kind, count = struct.unpack_from("<IQ", mapped, orig_offs)
            item, end = GGUFValueType(kind), orig_offs + 12
            if item == GGUFValueType.STRING:
                data = memoryview(mapped)
                for _ in range(count):
                    end += 8 + struct.unpack_from("<Q", data, end)[0]
            else:  # `check_gguf` refuses lists of lists
                end += count * np.dtype(self.gguf_scalar_to_np[item]).itemsize
            return end - orig_offs, [self.data[orig_offs:end]], [], [GGUFValueType.ARRAY, item]

    check_gguf(source)
    try:
        reader = Reader(source)
    except Exception as error:  # a damaged file may fail anywhere in the reader
        reason = first_line(error)
        raise DposcopeError(f"cannot read {source} as GGUF: {reason}; is the file whole?") from error
    if reader.endianess is not GGUFEndian.LITTLE:
        raise DposcopeError(f"{source} is big-endian; convert it with gguf-convert-endian first")
    return reader


def _field(reader: Any, name: str) -> Any:
    field = reader.get_field(name)
    return None if field is None else field.contents()
