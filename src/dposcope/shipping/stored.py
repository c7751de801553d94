"""Tensors in safetensors files: located by the header, read one at a time, rewritten in place.

A file has eight bytes (the length of the header, little-endian), a JSON header with `dtype`, `shape` and `data_offsets`
of each tensor, and the bytes of the tensors: https://github.com/huggingface/safetensors#format.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dposcope.errors import DposcopeError
from dposcope.model.checks.own_files import check_link
from dposcope.reading import parse_json, parse_object, read_json

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INDEX = "model.safetensors.index.json"
_MEND = "download it again"


@dataclass(frozen=True)
class _Index:
    """`model.safetensors.index.json`."""

    weight_map: dict[str, str]
    """Tensor → file."""


@dataclass(frozen=True)
class _Place:
    """What a header says of a tensor."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class Stored:
    """A tensor's place in a file."""

    file: Path
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    """Its first byte in the file."""
    size: int
    """Bytes."""

    def read(self) -> Tensor:
        """Read the tensor into memory."""
        with self.file.open("rb") as stream:
            stream.seek(self.start)
            raw = bytearray(self.size)
            stream.readinto(raw)
        return torch.frombuffer(raw, dtype=self.dtype).reshape(self.shape) if raw else torch.empty(self.shape)

    def write(self, file: Path, tensor: Tensor) -> None:
        """Overwrite the tensor in `file`, a copy of the original, by one of the same shape and type."""
        assert tensor.dtype == self.dtype
        assert tuple(tensor.shape) == self.shape
        with file.open("r+b") as stream:
            stream.seek(self.start)
            stream.write(tensor.contiguous().view(torch.uint8).numpy().tobytes())


class Weights(Mapping[str, Stored]):
    """All tensors of a checkpoint folder, with one file or several. Only headers are read."""

    def __init__(self, folder: Path) -> None:
        """Read the headers of its `weight_files`.

        Raises:
            DposcopeError: there are none, one is missing, damaged, or a link that leads out of the folder.
        """
        self.files = weight_files(folder)
        self._places: dict[str, Stored] = {}
        for file in self.files:
            check_link(folder, file)
            self._places |= _header(file)

    def __getitem__(self, name: str) -> Stored:
        """The tensor with a stored name."""
        return self._places[name]

    def __iter__(self) -> Iterator[str]:
        """Stored names."""
        return iter(self._places)

    def __len__(self) -> int:
        """How many tensors there are."""
        return len(self._places)


def find(weights: Weights, names: Mapping[str, str], name: str, shape: tuple[int, ...]) -> Stored:
    """The stored tensor of a parameter.

    Raises:
        DposcopeError: it is not stored as one tensor, or has another shape.
    """
    if name not in names:
        raise DposcopeError(
            f"the checkpoint does not store {name} as a separate tensor; load and save it with transformers first"
        )
    stored = weights[names[name]]
    if stored.shape != shape:
        raise DposcopeError(
            f"{stored.name} has shape {list(stored.shape)}, but config.json says {list(shape)}; download it again"
        )
    return stored


def weight_files(folder: Path) -> list[Path]:
    """The files with weights as transformers finds them: `model.safetensors`, or else the files of the index.

    Raises:
        DposcopeError: there are none, or one is missing.
    """
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if not (folder / INDEX).is_file():
        raise DposcopeError(
            f"{folder} has no safetensors weights; convert it first (model.save_pretrained writes them)"
        )
    index = read_json(folder / INDEX, _Index, mend=_MEND)
    files = [folder / name for name in sorted(set(index.weight_map.values()))]
    missing = [file.name for file in files if Path(file.name) != file.relative_to(folder) or not file.is_file()]
    if missing or not files:
        raise DposcopeError(
            f"{folder} has no {missing[0] if missing else 'weights'}, which its index names; download it again"
        )
    return files


def _header(file: Path) -> dict[str, Stored]:
    try:
        with safe_open(file, framework="pt"):
            pass  # checks lengths and types, and that no tensors overlap or exceed the file
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = stream.read(length).decode()
    except (OSError, ValueError, SafetensorError) as error:
        raise DposcopeError(f"{file} is damaged ({error}); {_MEND}") from error
    source = f"the header of {file}"
    found = parse_object(header, source=source, mend=_MEND)
    found.pop("__metadata__", None)
    places: dict[str, Stored] = {}
    for name, about in parse_json(json.dumps(found), dict[str, _Place], source=source, mend=_MEND).items():
        if about.dtype not in _DTYPES:
            raise DposcopeError(f"{file} holds {name} as {about.dtype}, which is not supported")
        start, end = about.data_offsets
        places[name] = Stored(file, name, _DTYPES[about.dtype], about.shape, 8 + length + start, end - start)
    return places


Parts = Iterator[tuple[Tensor, Tensor]]
"""Views that together cover the old tensor, each with its new values in float64."""


@dataclass(frozen=True, eq=False)
class Written:
    """A changed tensor, ready to be stored."""

    stored: Stored
    tensor: Tensor
    rounding: float
    """Largest |stored − exact| over the largest |exact|."""


@dataclass(frozen=True, eq=False)
class Rewriting:
    """The change of a stored tensor; a call reads and computes it."""

    stored: Stored
    new: Callable[[Tensor], Parts]

    @torch.no_grad()
    def __call__(self) -> Written:
        """Read the tensor and change it.

        Raises:
            DposcopeError: a new value is out of the range of the tensor's type.
        """
        tensor = self.stored.read()
        error, largest = 0.0, 0.0
        for view, exact in self.new(tensor):
            view.copy_(exact.to(tensor.dtype))
            if bool((view.isinf() & exact.isfinite()).any()):
                kind = str(tensor.dtype).removeprefix("torch.")
                raise DposcopeError(
                    f"the edit takes {self.stored.name} out of the range of {kind}; "
                    "use a weaker edit, or a checkpoint of a wider type"
                )
            error = max(error, float((view.double() - exact).abs().max()))
            largest = max(largest, float(exact.abs().max()))
        return Written(self.stored, tensor, error / largest if largest > 0 else 0.0)
