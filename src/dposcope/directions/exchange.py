"""Directions to and from other tools: steering-vectors, repeng, and control vectors of llama.cpp (GGUF).

All of them add c·v to the residual stream at the end of a block. `Steer` subtracts α·W there, so c = −α. Blocks count
from 0 in every one: key k of a dictionary and the tensor `direction.k` of a file act at the end of block k. llama.cpp
cannot steer block 0, and its files have no `direction.0`.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import TypedDict

from dposcope.artefacts import check_path, write_atomically
from dposcope.directions.direction import Direction, as_direction
from dposcope.errors import DposcopeError, first_line, plural
from dposcope.foreign_text import visible
from dposcope.model.checks.gguf import read_header
from dposcope.model.checks.given import check_lm
from dposcope.model.language_model import LanguageModel

_ARCHITECTURE: Final = "controlvector"
_BLOCK: Final = "decoder_block"
"""What steering-vectors calls the residual stream at the end of a block."""


class SteeringVectorFields(TypedDict):
    """The arguments of steering-vectors' `SteeringVector`."""

    layer_activations: dict[int, Tensor]
    """Block → v, `[d]`, float32."""
    layer_type: str
    """`decoder_block`: at the end of a block."""


class ControlVectorFields(TypedDict):
    """The arguments of repeng's `ControlVector`."""

    model_type: str
    """Of the model's config."""
    directions: dict[int, NDArray[np.float32]]
    """Block → v, `[d]`."""


class SteeringVectorLike(Protocol):
    """A `SteeringVector`, as it is read."""

    @property
    def layer_activations(self) -> Mapping[int, Any]:
        """Block → v."""
        ...

    @property
    def layer_type(self) -> str:
        """Where it acts."""
        ...


class ControlVectorLike(Protocol):
    """A `ControlVector`, as it is read."""

    @property
    def model_type(self) -> str:
        """Of the model's config."""
        ...

    @property
    def directions(self) -> Mapping[int, Any]:
        """Block → v."""
        ...


def to_steering_vectors(
    lm: LanguageModel, directions: Direction | Tensor | Sequence[Direction]
) -> SteeringVectorFields:
    """For steering-vectors: `SteeringVector(**to_steering_vectors(lm, toxic))`.

    Args:
        lm: the model that they belong to.
        directions: one, or one per block; each acts at the end of its own block.

    Raises:
        DposcopeError: a direction does not fit the model, or two are of one block.
    """
    return {"layer_activations": _by_block(lm, directions), "layer_type": _BLOCK}


def from_steering_vectors(lm: LanguageModel, vector: SteeringVectorLike) -> list[Direction]:
    """Directions of a `SteeringVector`, one per block, in the order of the blocks.

    Args:
        lm: the model that it belongs to.
        vector: anything with its two fields.

    Raises:
        DposcopeError: it does not act at the end of blocks, or does not fit the model.
    """
    check_lm(lm)
    _check_fields(vector, "layer_activations", "layer_type")
    if vector.layer_type != _BLOCK:
        raise DposcopeError(
            f"the steering vector acts on {visible(str(vector.layer_type))}, and a direction acts at the end of a "
            f"block; give one of type {_BLOCK}"
        )
    return _from_blocks(lm, vector.layer_activations, "steering-vectors")


def to_repeng(lm: LanguageModel, directions: Direction | Tensor | Sequence[Direction]) -> ControlVectorFields:
    """For repeng: `ControlVector(**to_repeng(lm, toxic))`; give its `ControlModel` the same blocks.

    Args:
        lm: the model that they belong to.
        directions: one, or one per block.

    Raises:
        DposcopeError: see `to_steering_vectors`.
    """
    vectors = {block: vector.numpy() for block, vector in _by_block(lm, directions).items()}
    return {"model_type": lm.model.config.model_type, "directions": vectors}


def from_repeng(lm: LanguageModel, vector: ControlVectorLike) -> list[Direction]:
    """Directions of a `ControlVector`, one per block, in the order of the blocks.

    Args:
        lm: the model that it belongs to.
        vector: anything with its two fields.

    Raises:
        DposcopeError: it is of another kind of model, or does not fit.
    """
    check_lm(lm)
    _check_fields(vector, "directions", "model_type")
    _check_kind(lm, str(vector.model_type), "the control vector")
    return _from_blocks(lm, vector.directions, "repeng")


def write_control_vector(
    lm: LanguageModel, directions: Direction | Tensor | Sequence[Direction], path: str | Path
) -> Path:
    """Write a control vector that llama.cpp and repeng read, as float32.

    In llama.cpp, `--control-vector-scaled FILE:c` adds c·W; a negative c steers away from the concept.

    Args:
        lm: the model that they belong to.
        directions: one, or one per block from block 1 on.
        path: the `.gguf` file; it is replaced.

    Returns:
        The path.

    Raises:
        DposcopeError: a direction does not fit or is of block 0, or the `gguf` package is missing.
    """
    vectors = _by_block(lm, directions)
    if 0 in vectors:
        raise DposcopeError("llama.cpp cannot steer at the end of block 0; make the direction at a later block")
    _check_package()
    from gguf import GGUFWriter

    check_path(path)
    path = Path(path)
    with write_atomically(path) as temporary:
        writer = GGUFWriter(temporary, _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", lm.model.config.model_type)
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(vectors))
        for block, vector in vectors.items():
            writer.add_tensor(f"direction.{block}", vector.numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def read_control_vector(lm: LanguageModel, path: str | Path) -> list[Direction]:
    """Directions of a control vector in GGUF, one per block, in the order of the blocks.

    Args:
        lm: the model that it belongs to.
        path: as llama.cpp's cvector-generator, repeng or `write_control_vector` wrote it.

    Raises:
        DposcopeError: the file is damaged or of another kind, it does not fit the model, or the `gguf` package is
            missing.
    """
    check_lm(lm)
    check_path(path)
    path = Path(path)
    if not path.is_file():
        raise DposcopeError(f"there is no file {path}; check the path")
    header = read_header(path)
    architecture = header.fields.get("general.architecture")
    if architecture != _ARCHITECTURE:
        raise DposcopeError(f"{path} holds {visible(str(architecture))!r}, no control vector; name a file of one")
    hint = header.fields.get(f"{_ARCHITECTURE}.model_hint")
    if isinstance(hint, str):
        _check_kind(lm, hint, str(path))
    blocks = [_block_of(name, path) for name in header.tensors]
    if len(blocks) != len(set(blocks)):
        raise DposcopeError(f"{path} has a block twice; make it again")
    _check_package()
    from gguf import GGUFReader

    try:
        vectors = {
            block: np.array(tensor.data) if tensor.tensor_type.name in _PLAIN else None
            for block, tensor in zip(blocks, GGUFReader(path).tensors, strict=True)
        }
    except Exception as error:  # a damaged file may fail anywhere in the library
        raise DposcopeError(f"cannot read {path} as GGUF: {first_line(error)}; is the file whole?") from error
    if any(vector is None for vector in vectors.values()):
        raise DposcopeError(f"{path} holds quantised vectors; write it again as F32 or F16")
    return _from_blocks(lm, vectors, "gguf")


_PLAIN: Final = ("F16", "F32", "F64")
_MOST_DIGITS: Final = 6


def _check_fields(vector: object, *names: str) -> None:
    if not all(hasattr(vector, name) for name in names):
        raise DposcopeError(f"a {type(vector).__name__} has no {' or no '.join(names)}; give a vector that has both")


def _block_of(name: str, path: Path) -> int:
    head, _, number = name.partition(".")
    if head != "direction" or not (number.isascii() and number.isdigit() and len(number) <= _MOST_DIGITS):
        raise DposcopeError(f"{path} has a tensor {visible(name[:40])!r}, and direction.N is expected; make it again")
    return int(number)


def _check_package() -> None:
    if find_spec("gguf") is None:
        raise DposcopeError(
            "control vectors in GGUF need the gguf package; install it with: pip install 'dposcope[gguf]'"
        )


def _check_kind(lm: LanguageModel, hint: str, what: str) -> None:
    own = str(lm.model.config.model_type)
    if _plain(hint) not in (_plain(own), _IN_LLAMA_CPP.get(own)):
        raise DposcopeError(
            f"{what} is of a model of kind {visible(hint[:40])}, and {lm.name} is of kind {own}; give one of this model"
        )


_IN_LLAMA_CPP: Final = {"mistral": "llama"}
"""Kinds that llama.cpp calls otherwise."""


def _plain(kind: str) -> str:
    """A kind of model as both write it: llama.cpp has no marks in it, and no `_text`."""
    return kind.lower().replace("_text", "").replace("-", "").replace("_", "")


def _by_block(lm: LanguageModel, directions: Direction | Tensor | Sequence[Direction]) -> dict[int, Tensor]:
    """Block, 0 … L−1 → vector `[d]`, float32."""
    check_lm(lm)
    given: object = directions  # what is no list is one, or refused as none
    several = cast(Sequence[Direction | Tensor], given if isinstance(given, list | tuple) else [given])
    found: dict[int, Tensor] = {}
    for one in several:
        direction = as_direction(one, lm)
        _check_block(lm, direction.block, least=-lm.n_blocks)
        block = direction.block % lm.n_blocks
        if block in found:
            raise DposcopeError(f"two directions are of block {block}; give one per block")
        found[block] = direction.vector.to(torch.float32)
    if not found:
        raise DposcopeError("there is no direction to write; give at least one")
    return dict(sorted(found.items()))


def _from_blocks(lm: LanguageModel, vectors: Mapping[int, Any], source: str) -> list[Direction]:
    """Directions of vectors by block, in the order of the blocks."""
    if not vectors:
        raise DposcopeError("the vector has no block; give one that has")
    for block in vectors:
        if type(block) is not int:
            raise DposcopeError(f"a block is named {str(block)[:40]!r}, and blocks are whole numbers; make it again")
        _check_block(lm, block, least=0)
    return [
        as_direction(Direction(torch.as_tensor(vectors[block]), source, block, {"model": lm.name}), lm)
        for block in sorted(vectors)
    ]


def _check_block(lm: LanguageModel, block: int, *, least: int) -> None:
    if not least <= block < lm.n_blocks:
        raise DposcopeError(
            f"there is no block {block} in {lm.name}, which has {plural(lm.n_blocks, 'block')}, counted from 0"
        )
