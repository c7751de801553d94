"""A direction in the residual stream: the axis along which a concept is measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from typing_extensions import TypedDict

from dposcope.artefacts import check_facts, load_tensors, save_tensors
from dposcope.data.given.numbers import whole
from dposcope.data.short import short_repr
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm, check_tensor
from dposcope.model.language_model import LanguageModel
from dposcope.reading import known

_Share = Annotated[float, Field(ge=0, le=1)]


class _Quality(TypedDict, total=False):
    """What is read of a `ProbeQuality`."""

    accuracy: _Share
    majority: _Share
    balanced_accuracy: float
    roc_auc: float
    test_texts: Annotated[int, Field(ge=1)]
    strength: Annotated[float, Field(gt=0)]


DirectionFacts = Annotated[dict[str, Any], known(residual_norm=float, seed=int, quality=_Quality)]
"""How a direction was made. What is read of it has its type, and the rest is for people."""


@dataclass(frozen=True)
class _Facts:
    """Beside its tensor."""

    direction: str
    block: int
    about: DirectionFacts


@dataclass(frozen=True, eq=False)
class Direction:
    """W: its positive side is the side of the concept, such as toxic (paper 3.2)."""

    vector: Tensor
    """W, `[d]`, float64, on the CPU: a copy of what was given. The meaning of its norm depends on `kind`."""
    kind: str
    """The method: `mean_difference`, `probe`, `token_contrast`, `random`, or your own name."""
    block: int
    """The block at whose end the residual stream is read, 0 … L−1; −1 for the last."""
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Model, protocol, numbers of texts, quality."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Copy the vector; refuse one that is not a direction."""
        check_tensor("the numbers of a direction", self.vector)
        check_facts(self.about)
        object.__setattr__(self, "block", whole("block", self.block))
        vector = self.vector.detach().to("cpu", torch.float64, copy=True)
        if vector.ndim != 1:
            raise DposcopeError(f"a direction is one vector [d], not {list(vector.shape)}")
        if not vector.isfinite().all():
            raise DposcopeError("the direction holds NaN or infinite values; run the model in bfloat16 or float32")
        if not vector.norm() > 0:
            raise DposcopeError("the direction has norm zero; are the two classes of texts the same?")
        object.__setattr__(self, "vector", vector)

    @property
    def norm(self) -> float:
        """|W|."""
        return float(self.vector.norm())

    @property
    def unit(self) -> Tensor:
        """W/|W|, `[d]`, float64."""
        return self.vector / self.vector.norm()

    def cosine(self, other: "Direction | Tensor") -> float:
        """Cosine with another direction, or vector `[d]`, of the same width."""
        unit = as_direction(other).unit
        if unit.shape != self.vector.shape:
            raise DposcopeError(f"directions of widths {len(self.vector)} and {len(unit)} are of different models")
        return float(self.unit @ unit)

    def random_like(self, seed: int) -> "Direction":
        """A random direction of the same norm: the control for steering and ablation."""
        seed = whole("seed", seed)
        stream = torch.Generator().manual_seed(seed)
        vector = torch.randn(self.vector.shape, generator=stream, dtype=torch.float64)
        return Direction(vector / vector.norm() * self.norm, "random", self.block, {"seed": seed})

    def save(self, stem: str | Path) -> None:
        """Write `stem.safetensors` and `stem.json`."""
        facts = {"direction": self.kind, "block": self.block, "about": dict(self.about)}
        save_tensors(stem, "Direction", {"vector": self.vector}, facts)

    @classmethod
    def load(cls, stem: str | Path) -> "Direction":
        """Read what `save` wrote."""
        saved = load_tensors(stem, "Direction", _Facts)
        return cls(saved.tensors["vector"], saved.facts.direction, saved.facts.block, saved.facts.about)


def as_direction(direction: Direction | Tensor, lm: LanguageModel | None = None) -> Direction:
    """What functions do with the direction that they are given: a plain vector is one, of the last block.

    Args:
        direction: a `Direction`, or a vector `[d]` of any float type and device.
        lm: the model whose residual stream it is in; None: not checked.

    Raises:
        DposcopeError: it is neither, it is not one finite vector of norm above zero, or not of the model's width.
    """
    if lm is not None:
        check_lm(lm)
    found = direction if isinstance(direction, Direction) else _of_vector(direction)
    if lm is not None and found.vector.shape != (lm.d_model,):
        raise DposcopeError(
            f"the direction has shape {list(found.vector.shape)}, the model's residual stream [{lm.d_model}]; "
            "make the direction from this model"
        )
    return found


def _of_vector(vector: object) -> Direction:
    if not isinstance(vector, Tensor):
        raise DposcopeError(f"a direction is a Direction or a tensor [d], not a {type(vector).__name__}; give one")
    return Direction(vector, "vector", -1)


def vector_of(direction: Direction | Tensor, lm: LanguageModel | None = None) -> Tensor:
    """W of what `as_direction` takes, `[d]`, float64, on the CPU."""
    return as_direction(direction, lm).vector
