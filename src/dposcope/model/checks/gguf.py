"""The header of a GGUF file, read before a library reads it: every count in it must fit into the file.

The library believes a count of a million million items, and a model of as many blocks. The format: magic, version,
number of tensors, number of fields; each field a name, a type and a value; each tensor a name, a shape, a type and an
offset (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

import mmap
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from dposcope.errors import DposcopeError, plural
from dposcope.files import check_regular
from dposcope.model.checks.config import check_sizes

_MAGIC: Final = b"GGUF"
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a value → its letter for `struct`."""
_STRING, _ARRAY = 8, 9
_KEPT = 1_000
"""Numbers of an array that are kept: one for each block. Those of a vocabulary are passed over."""
_BLOCK: Final = re.compile(r"blk\.(\d+)\.")

_SIZES: Final = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
    "expert_count": "num_experts",
    "vocab_size": "vocab_size",
}
"""Field of an architecture → its name in a config."""

_Number = int | float | bool
_Value = _Number | str | list[_Number]


@dataclass(frozen=True)
class GgufHeader:
    """What a file says of itself."""

    fields: dict[str, _Value] = field(default_factory=dict[str, _Value])
    """Numbers, texts and short arrays of numbers by name; longer arrays, and those of texts, are left out."""
    tensors: tuple[str, ...] = ()
    """Names of the tensors."""


def check_gguf(path: Path) -> GgufHeader:
    """Read the header, and refuse one that promises more than the file holds.

    Raises:
        DposcopeError: it is no ordinary file, no GGUF, or cut off; a size is one that no model has; or there are fewer
            blocks than it says.
    """
    header = read_header(path)
    architecture = header.fields.get("general.architecture")
    sizes = {ours: header.fields.get(f"{architecture}.{theirs}") for theirs, ours in _SIZES.items()}
    check_sizes(sizes, path)
    promised = sizes["num_hidden_layers"]
    stored = max((int(one[1]) + 1 for one in map(_BLOCK.match, header.tensors) if one is not None), default=0)
    if isinstance(promised, int) and promised > stored:
        raise DposcopeError(f"{path} says {plural(promised, 'block')}, but holds {stored:,}; download it again")
    return header


def read_header(path: Path) -> GgufHeader:
    """The header of a GGUF file of version 2 or 3.

    Raises:
        DposcopeError: it is no ordinary file, no GGUF, or a count in it reaches beyond its end.
    """
    check_regular(path)
    with path.open("rb") as stream:
        try:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(data).header()
        except (ValueError, struct.error) as error:  # an empty file cannot be mapped
            raise DposcopeError(f"cannot read {path} as GGUF: {error}; is the file whole?") from error


class _Reader:
    """Reads from the start on, and never beyond the end."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at, self._order = data, 4, "<"

    def header(self) -> GgufHeader:
        if self._data[:4] != _MAGIC:
            raise ValueError("it does not begin with GGUF")
        version = int(self._number("I"))
        if version >= 1 << 16:  # its bytes are in the other order
            self._order, version = ">", int.from_bytes(version.to_bytes(4, "little"), "big")
        if version not in (2, 3):
            raise ValueError(f"its version is {version}, and 2 and 3 are read")
        tensors, count = self._count(24), self._count(12)
        fields: dict[str, _Value] = {}
        for _ in range(count):
            name = self._text()
            value = self._value(int(self._number("I")))
            if value is not None:
                fields[name] = value
        return GgufHeader(fields, tuple(self._tensor() for _ in range(tensors)))

    def _tensor(self) -> str:
        name, dimensions = self._text(), int(self._number("I"))
        self._skip(8 * dimensions + 4 + 8)  # shape, type, offset
        return name

    def _value(self, kind: int) -> _Value | None:
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            raise ValueError(f"a field has the type {kind}, which there is not")
        kind = int(self._number("I"))
        if kind in _SCALARS:
            letter = _SCALARS[kind]
            size = struct.calcsize(letter)
            count = self._count(size)
            if count <= _KEPT:
                return [self._number(letter) for _ in range(count)]
            self._skip(count * size)
            return None
        if kind != _STRING:
            raise ValueError("a field holds lists of lists")
        for _ in range(self._count(8)):
            self._skip(self._count(1))
        return None

    def _number(self, letter: str) -> _Number:
        (value,) = struct.unpack_from(f"{self._order}{letter}", self._data, self._at)
        self._at += struct.calcsize(letter)
        return value

    def _count(self, size: int) -> int:
        """A number of items of at least `size` bytes, which must be there."""
        count = int(self._number("Q"))
        if count * size > len(self._data) - self._at:
            raise ValueError("it ends before its header does")
        return count

    def _text(self) -> str:
        length = self._count(1)
        start = self._at
        self._skip(length)
        return self._data[start : self._at].decode("utf-8", errors="replace")

    def _skip(self, count: int) -> None:
        if count > len(self._data) - self._at:
            raise ValueError("it ends before its header does")
        self._at += count
