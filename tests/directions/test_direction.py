"""A direction: one finite vector, its norm and unit, its control, and its files."""

import json
import math

import pytest
import torch

from dposcope.artefacts import save_tensors
from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError


def vector(d: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 7


def test_norm_unit_and_cosine_are_what_they_are_called():
    direction = Direction(torch.tensor([3.0, 0.0, -4.0]), "mine", -1)
    assert direction.norm == 5.0
    assert direction.unit.tolist() == [0.6, 0.0, -0.8]
    assert direction.cosine(direction) == pytest.approx(1.0, abs=1e-15)
    assert direction.cosine(Direction(-2 * direction.vector, "mine", 0)) == pytest.approx(-1.0, abs=1e-15)
    assert direction.cosine(Direction(torch.tensor([0.0, 1.0, 0.0]), "mine", 0)) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_vector_is_float64_without_a_graph(dtype):
    own = vector().to(dtype).requires_grad_()
    direction = Direction(own, "mine", 0)
    assert direction.vector.dtype == torch.float64
    assert not direction.vector.requires_grad
    assert torch.equal(direction.vector, own.detach().double())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad):
    own = vector()
    own[3] = bad
    with pytest.raises(DposcopeError, match=r"the direction holds NaN or infinite values; .*float32"):
        Direction(own, "mine", 0)


@pytest.mark.parametrize("shape", [(), (1, 16), (2, 16)])
def test_what_is_no_vector_is_refused(shape):
    with pytest.raises(DposcopeError, match=r"a direction is one .*vector \[d\], not \["):
        Direction(torch.ones(shape), "mine", 0)


def test_a_vector_of_norm_zero_is_refused():
    with pytest.raises(DposcopeError, match="norm zero; are the two classes of texts the same"):
        Direction(torch.zeros(16), "mine", 0)


def test_a_vector_that_float32_could_not_square_is_a_direction():
    direction = Direction(torch.full((4,), 1e-150, dtype=torch.float64), "mine", 0)
    assert direction.norm == pytest.approx(2e-150)
    assert direction.unit.norm().item() == pytest.approx(1.0)


def test_a_saved_direction_comes_back_to_the_bit(tmp_path):
    about = {"protocol": "strict", "quality": {"accuracy": 0.1 + 0.2}, "texts_with": 3}
    direction = Direction(vector() / 3, "probe", 2, about)
    direction.save(tmp_path / "w")
    loaded = Direction.load(tmp_path / "w")
    assert torch.equal(loaded.vector, direction.vector)
    assert loaded.vector.dtype == torch.float64
    assert (loaded.kind, loaded.block, loaded.about) == ("probe", 2, about)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.json", "w.safetensors"]


def test_loading_another_kind_of_file_is_refused(tmp_path):
    save_tensors(tmp_path / "g", "Gains", {"values": torch.ones(2, 3)}, {})
    with pytest.raises(DposcopeError, match="holds 'Gains', not 'Direction'; name a file written as Direction"):
        Direction.load(tmp_path / "g")


def test_a_file_with_a_vector_that_is_no_direction_is_refused(tmp_path):
    save_tensors(
        tmp_path / "w", "Direction", {"vector": torch.zeros(4)}, {"direction": "mine", "block": 0, "about": {}}
    )
    with pytest.raises(DposcopeError, match="norm zero"):
        Direction.load(tmp_path / "w")


def test_about_named_like_a_field_of_the_file_does_no_harm(tmp_path):
    Direction(vector(), "mine", 1, {"kind": "x", "format_version": 99, "direction": "y", "block": 5}).save(
        tmp_path / "w"
    )
    loaded = Direction.load(tmp_path / "w")
    assert (loaded.kind, loaded.block) == ("mine", 1)
    assert loaded.about["format_version"] == 99
    assert json.loads((tmp_path / "w.json").read_text())["format_version"] == 1


def test_a_random_direction_has_the_same_norm_and_follows_its_seed():
    direction = Direction(vector(64), "probe", 3)
    control = direction.random_like(5)
    assert control.norm == pytest.approx(direction.norm, rel=1e-12)
    assert control.block == 3
    assert control.kind == "random"
    assert control.about == {"seed": 5}
    assert torch.equal(control.vector, direction.random_like(5).vector)
    assert not torch.equal(control.vector, direction.random_like(6).vector)


def test_random_directions_point_anywhere():
    direction = Direction(vector(64), "probe", 3)
    cosines = torch.tensor([direction.cosine(direction.random_like(seed)) for seed in range(400)])
    assert abs(cosines.mean()) < 0.02  # its standard error: 1/√(64·400) = 0.006
    assert cosines.std() == pytest.approx(1 / math.sqrt(64), rel=0.15)


def test_a_random_direction_does_not_touch_the_global_generator():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    Direction(vector(), "probe", 3).random_like(5)
    assert torch.rand(1) == expected


def test_a_direction_cannot_be_changed():
    direction = Direction(vector(), "probe", 3)
    with pytest.raises(AttributeError):
        direction.block = 4


def test_a_direction_keeps_its_vector_when_the_tensor_is_written_to():
    own = vector()
    direction = Direction(own, "mine", 0)
    before = own.clone()
    own.zero_()
    assert torch.equal(direction.vector, before)
