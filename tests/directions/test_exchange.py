"""Directions to and from steering-vectors, repeng and GGUF: the same effect at the same block, and nothing lost.

The two packages are not installed here. What they do with their fields is written out: they add c·v to what block k
returns (`helpers.families.trace` replaces it). llama.cpp does so with `direction.k`.
"""

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter

from dposcope.directions.direction import Direction
from dposcope.directions.exchange import (
    from_repeng,
    from_steering_vectors,
    read_control_vector,
    to_repeng,
    to_steering_vectors,
    write_control_vector,
)
from dposcope.errors import DposcopeError
from dposcope.interventions.steer import Steer
from helpers.families import assert_close, logits_of, random_direction, trace

IDS = [2, 40, 41, 55, 60]
STRENGTH = -1.7


@dataclass
class SteeringVector:
    layer_activations: dict[int, Any]
    layer_type: str = "decoder_block"


@dataclass
class ControlVector:
    model_type: str
    directions: dict[int, Any] = field(default_factory=dict)


def two(lm) -> list[Direction]:
    """Of block 1 and of the last one."""
    return [Direction(random_direction(lm, 1), "probe", -1), Direction(random_direction(lm), "probe", 1)][
        lm.n_blocks == 2 :
    ]


def ours(lm, directions, strength) -> torch.Tensor:
    if not directions:
        return logits_of(lm, IDS)
    with Steer(directions[0], alpha=-strength, block=directions[0].block).on(lm):
        return ours(lm, directions[1:], strength)


def theirs(lm, vectors, strength) -> torch.Tensor:
    """Logits `[T, vocabulary]` with `strength` times a vector added to what each block in `vectors` returns."""
    add = {block: strength * torch.as_tensor(vector).float() for block, vector in vectors.items()}
    return trace(lm, IDS, stream=lambda block, stream: stream + add.get(block, 0)).logits


def of_gguf(lm, directions, folder) -> dict[int, Any]:
    """As llama.cpp's loader numbers the tensors of a file: `direction.k` is added to what block k returns."""
    path = write_control_vector(lm, directions, folder / "v.gguf")
    return {int(one.name.removeprefix("direction.")): np.array(one.data) for one in GGUFReader(path).tensors}


FORMS = {
    "steering-vectors": lambda lm, directions, _: to_steering_vectors(lm, directions)["layer_activations"],
    "repeng": lambda lm, directions, _: to_repeng(lm, directions)["directions"],
    "gguf": of_gguf,
}


@pytest.mark.parametrize("form", FORMS)
def test_steering_with_what_was_written_is_ours(lm, form, tmp_path):
    directions = two(lm)
    vectors = FORMS[form](lm, directions, tmp_path)
    assert list(vectors) == sorted({direction.block % lm.n_blocks for direction in directions})
    assert_close(theirs(lm, vectors, STRENGTH), ours(lm, directions, STRENGTH))
    shifted = {(block + 1) % lm.n_blocks: vector for block, vector in vectors.items()}
    assert (theirs(lm, shifted, STRENGTH) - ours(lm, directions, STRENGTH)).abs().max() > 1e-2


READERS = {
    "steering-vectors": lambda lm, directions, _: from_steering_vectors(
        lm, SteeringVector(**to_steering_vectors(lm, directions))
    ),
    "repeng": lambda lm, directions, _: from_repeng(lm, ControlVector(**to_repeng(lm, directions))),
    "gguf": lambda lm, directions, folder: read_control_vector(
        lm, write_control_vector(lm, directions, folder / "v.gguf")
    ),
}


@pytest.mark.parametrize("form", READERS)
def test_what_is_written_and_read_is_the_same_vector_at_the_same_block(lm, form, tmp_path):
    directions = sorted(two(lm), key=lambda one: one.block % lm.n_blocks)
    again = READERS[form](lm, directions, tmp_path)
    assert [one.block for one in again] == [one.block % lm.n_blocks for one in directions]
    assert {one.kind for one in again} == {form}
    for one, other in zip(again, directions, strict=True):
        assert torch.equal(one.vector, other.vector.float().double())


def test_one_direction_or_vector_may_stand_alone(llama):
    vector = random_direction(llama)
    for given in (Direction(vector, "mine", -1), vector, [Direction(vector, "mine", 2)]):
        assert to_repeng(llama, given)["directions"].keys() == {2}
    assert to_repeng(llama, vector)["model_type"] == "llama"


def test_block_zero_goes_everywhere_but_to_llama_cpp(llama, tmp_path):
    first = Direction(random_direction(llama), "mine", 0)
    assert_close(theirs(llama, to_repeng(llama, first)["directions"], 2.0), ours(llama, [first], 2.0))
    with pytest.raises(DposcopeError, match=r"llama\.cpp cannot steer at the end of block 0; make the direction at"):
        write_control_vector(llama, first, tmp_path / "v.gguf")
    assert list(tmp_path.iterdir()) == []


def written(path, tensors, *, architecture="controlvector", hint="llama"):
    writer = GGUFWriter(path, architecture)
    if hint is not None:
        writer.add_string("controlvector.model_hint", hint)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_files_of_others(family_lm, tmp_path):
    vector = np.arange(1, 17, dtype=np.float16)
    for number, (family, hint) in enumerate(
        [("llama", "llama"), ("mistral", "llama"), ("gemma3", "gemma3"), ("qwen2", None)]
    ):
        lm = family_lm(family)
        (one,) = read_control_vector(lm, written(tmp_path / f"{number}.gguf", {"direction.2": vector}, hint=hint))
        assert one.block == 2
        assert one.vector.tolist() == list(range(1, 17))


V = np.ones(16, dtype=np.float32)
WRONG_FILES = {
    r"holds 'llama', no control vector": ({"direction.1": V}, {"architecture": "llama"}),
    r"is of a model of kind gpt2, and tiny-llama is of kind llama": ({"direction.1": V}, {"hint": "gpt2"}),
    r"has a tensor 'steer\.1', and direction\.N is expected": ({"steer.1": V}, {}),
    r"has a tensor 'direction\.one'": ({"direction.one": V}, {}),
    r"has a tensor 'direction\.-1'": ({"direction.-1": V}, {}),
    r"has a block twice": ({"direction.1": V, "direction.01": V}, {}),
    r"there is no block 3 in tiny-llama, which has 3 blocks, counted from 0": ({"direction.3": V}, {}),
    r"the direction has shape \[5\], the model's residual stream \[16\]": ({"direction.1": V[:5]}, {}),
    r"one vector \[d\], not \[2, 8\]": ({"direction.1": V.reshape(2, 8)}, {}),
    r"NaN or infinite": ({"direction.1": V * np.nan}, {}),
    r"norm zero": ({"direction.1": V * 0}, {}),
    r"holds quantised vectors": ({"direction.1": np.ones(16, dtype=np.int8)}, {}),
    r"the vector has no block": ({}, {}),
}


@pytest.mark.parametrize("line", WRONG_FILES)
def test_a_file_that_does_not_fit_is_told_in_one_line(llama, tmp_path, line):
    tensors, more = WRONG_FILES[line]
    with pytest.raises(DposcopeError, match=line) as told:
        read_control_vector(llama, written(tmp_path / "v.gguf", tensors, **more))
    assert "\n" not in str(told.value)


def test_damaged_files(llama, tmp_path):
    path = write_control_vector(llama, Direction(random_direction(llama), "mine", 1), tmp_path / "v.gguf")
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:end])
        with pytest.raises(DposcopeError, match=r"as GGUF|no control vector|no ordinary"):
            read_control_vector(llama, path)
    huge = whole.replace(struct.pack("<Q", 16), struct.pack("<Q", 1 << 60))
    path.write_bytes(huge)
    with pytest.raises(DposcopeError):
        read_control_vector(llama, path)
    with pytest.raises(DposcopeError, match="there is no file"):
        read_control_vector(llama, tmp_path / "none.gguf")


def test_objects_that_do_not_fit(llama):
    vector = random_direction(llama)
    wrong = {
        r"acts on mlp, and a direction acts at the end of a block": SteeringVector({1: vector}, "mlp"),
        r"no block -1": SteeringVector({-1: vector}),
        r"named '1', and blocks are whole numbers": SteeringVector({"1": vector}),
        r"shape \[5\]": SteeringVector({1: vector[:5]}),
        r"has no block": SteeringVector({}),
    }
    for line, given in wrong.items():
        with pytest.raises(DposcopeError, match=line):
            from_steering_vectors(llama, given)
    with pytest.raises(DposcopeError, match="is of a model of kind gpt2"):
        from_repeng(llama, ControlVector("gpt2", {1: vector.numpy()}))
    with pytest.raises(DposcopeError, match="two directions are of block 2; give one per block"):
        to_repeng(llama, [Direction(vector, "a", 2), Direction(vector, "b", -1)])
    with pytest.raises(DposcopeError, match="no block 7"):
        to_repeng(llama, Direction(vector, "a", 7))
    with pytest.raises(DposcopeError, match="no direction to write"):
        to_repeng(llama, [])


def test_without_the_package(llama, monkeypatch, tmp_path):
    monkeypatch.setattr("dposcope.directions.exchange.find_spec", lambda _: None)
    with pytest.raises(DposcopeError, match=r"need the gguf package; install it with: pip install 'dposcope\[gguf\]'"):
        write_control_vector(llama, Direction(random_direction(llama), "mine", 1), tmp_path / "v.gguf")
