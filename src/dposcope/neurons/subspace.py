"""The toxic subspace: the main axes of the value vectors of highest cosine with a direction (paper appendix G).

The paper finds that most neurons point along one axis and against another, and therefore rejects the subspace. But
signs along three random axes conflict as often. So each share here comes with a control and its chance level.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch
from scipy.linalg import subspace_angles
from torch import Tensor

from dposcope.artefacts import load_tensors, save_tensors
from dposcope.data.given.kinds import check_kind
from dposcope.data.given.numbers import whole
from dposcope.data.pandas_frames import ToPandas
from dposcope.data.short import short_repr
from dposcope.directions.direction import Direction, DirectionFacts, as_direction
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm
from dposcope.model.language_model import LanguageModel
from dposcope.neurons.aligned import most_aligned
from dposcope.neurons.contributions import Contributions
from dposcope.neurons.sets import NeuronSet

SIZES = (32, 64, 128, 256)
"""Numbers of value vectors between which `subspace_stability` compares."""


@dataclass(frozen=True)
class _DirectionFacts:
    """The direction that a subspace was made for."""

    kind: str
    block: int
    about: DirectionFacts


@dataclass(frozen=True)
class _Facts:
    """Beside its tensors."""

    vectors: int
    direction: _DirectionFacts
    about: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Subspace(ToPandas):
    """The first left singular vectors of N normalised value vectors as columns (paper appendix G)."""

    axes: Tensor
    """u_1 … u_r as columns, `[d, r]`, float64, orthonormal, each with u·W ≥ 0."""
    singular_values: Tensor
    """All of the matrix `[d, N]`, falling, `[min(d, N)]`, float64; the first r belong to the axes."""
    direction: Direction
    """W, whose highest cosines chose the value vectors."""
    vectors: int
    """N (paper: 128)."""
    about: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Model and fingerprint."""

    __repr__ = short_repr

    @property
    def combined(self) -> Direction:
        """The axes weighted by their singular values, Σ s_k u_k, as one direction."""
        weights = self.singular_values[: self.axes.shape[1]]
        about = {**self.about, "vectors": self.vectors, "axes": self.axes.shape[1]}
        return Direction(self.axes @ weights, "svd_subspace", self.direction.block, about)

    def to_polars(self) -> pl.DataFrame:
        """One row per axis: axis (from 0, as in Table 16), singular_value, share (of Σ s²), cosine (with W)."""
        rank = self.axes.shape[1]
        energy = self.singular_values.square()
        return pl.DataFrame(
            {
                "axis": torch.arange(rank).numpy(),
                "singular_value": self.singular_values[:rank].numpy(),
                "share": (energy / energy.sum())[:rank].numpy(),
                "cosine": (self.direction.unit @ self.axes).numpy(),
            }
        )

    def save(self, stem: str | Path) -> None:
        """Write `stem.safetensors` and `stem.json`."""
        tensors = {"axes": self.axes, "singular_values": self.singular_values, "direction": self.direction.vector}
        direction = {
            "kind": self.direction.kind,
            "block": self.direction.block,
            "about": dict(self.direction.about),
        }
        facts = {"vectors": self.vectors, "direction": direction, "about": dict(self.about)}
        save_tensors(stem, "Subspace", tensors, facts)

    @classmethod
    def load(cls, stem: str | Path) -> "Subspace":
        """Read what `save` wrote."""
        saved = load_tensors(stem, "Subspace", _Facts)
        tensors, facts = saved.tensors, saved.facts
        made = facts.direction
        direction = Direction(tensors["direction"], made.kind, made.block, made.about)
        return cls(tensors["axes"], tensors["singular_values"], direction, facts.vectors, facts.about)


def svd_subspace(lm: LanguageModel, direction: Direction | Tensor, *, vectors: int = 128, axes: int = 3) -> Subspace:
    """The main axes of the value vectors of highest cosine with W, each normalised (appendix G).

    Nothing is centred: the first axis is close to the mean vector. An axis is signed so that its dot product
    with W is positive.

    Args:
        lm: the model.
        direction: W, or a vector `[d]`.
        vectors: N, value vectors (paper: 128).
        axes: r, singular vectors kept (paper: 3).

    Raises:
        DposcopeError: W does not fit, or the value vectors span fewer dimensions than axes.
    """
    direction = as_direction(direction, lm)
    aligned = most_aligned(lm, direction, vectors)
    return _subspace(lm, direction, aligned.vectors, axes)


def _subspace(lm: LanguageModel, direction: Direction, vectors: Tensor, axes: int) -> Subspace:
    """Of value vectors `[N, d]`."""
    if whole("axes", axes) < 1:
        raise DposcopeError(f"cannot keep {axes} axes; keep at least one (paper: 3)")
    norms = vectors.norm(dim=1, keepdim=True)
    columns = torch.where(norms > 0, vectors / norms, 0.0).T
    u, values, _ = torch.linalg.svd(columns, full_matrices=False)
    # The usual bound: smaller singular values are rounding errors, and their vectors are arbitrary.
    rank = int((values > values[0] * max(columns.shape) * torch.finfo(torch.float64).eps).sum())
    if rank < axes:
        raise DposcopeError(
            f"{len(vectors):,} value vectors of {lm.name} span {rank} dimensions, fewer than {axes} axes; "
            "take more vectors or fewer axes"
        )
    first = u[:, :axes]
    signs = torch.where(direction.vector @ first < 0, -1.0, 1.0)
    about = {"model": lm.name, "fingerprint": lm.fingerprint}
    return Subspace(first * signs, values, direction, len(vectors), about)


# How the subspace settles as N grows


@dataclass(frozen=True, eq=False)
class Stability(ToPandas):
    """Principal angles between the subspaces of growing numbers of value vectors (paper appendix G: "stable")."""

    sizes: tuple[int, ...]
    """N, rising, `[s]`."""
    angles: Tensor
    """Between the subspaces of a size and of the next, in degrees, rising, `[s−1, r]`, float64."""
    random_angles: Tensor
    """The same between two random subspaces of that width, for comparison, `[r]`."""

    __repr__ = short_repr

    def to_polars(self) -> pl.DataFrame:
        """One row per two sizes, the last for random subspaces (sizes null): vectors, next, angle_1 … angle_r."""
        table = torch.cat([self.angles, self.random_angles.unsqueeze(0)])
        return pl.DataFrame(
            {
                "vectors": pl.Series([*self.sizes[:-1], None], dtype=pl.Int64),
                "next": pl.Series([*self.sizes[1:], None], dtype=pl.Int64),
                **{f"angle_{k + 1}": table[:, k].numpy() for k in range(table.shape[1])},
            }
        )


def subspace_stability(
    lm: LanguageModel, direction: Direction, *, sizes: Sequence[int] = SIZES, axes: int = 3, seed: int = 0
) -> Stability:
    """How far the subspace turns as value vectors are added; small angles mean that it is stable.

    Args:
        lm: the model.
        direction: W.
        sizes: N, rising, at least two.
        axes: r.
        seed: of the two random subspaces.

    Raises:
        DposcopeError: sizes do not rise, or a subspace cannot be made; see `svd_subspace`.
    """
    if len(sizes) < 2 or any(one >= other for one, other in pairwise(sizes)):
        raise DposcopeError(f"sizes {list(sizes)} are not two or more rising numbers; give such as 64 and 128")
    aligned = most_aligned(lm, direction.vector, sizes[-1])
    # Of the highest cosines the first N are the N highest.
    spans = [_subspace(lm, direction, aligned.vectors[:size], axes).axes for size in sizes]
    random = [random_axes(lm.d_model, axes, seed=2 * seed + which) for which in (0, 1)]
    return Stability(
        sizes=tuple(sizes),
        angles=torch.stack([_degrees_between(one, other) for one, other in pairwise(spans)]),
        random_angles=_degrees_between(random[0], random[1]),
    )


def _degrees_between(one: Tensor, other: Tensor) -> Tensor:
    """Principal angles of two spans `[d, r]`, rising, `[r]`; exact for small ones too, where a cosine is not."""
    return torch.from_numpy(subspace_angles(one.numpy(), other.numpy())).flip(0).rad2deg()


def random_axes(width: int, axes: int, *, seed: int) -> Tensor:
    """Random orthonormal columns, `[width, axes]`, float64, every orientation equally likely.

    Raises:
        DposcopeError: there are more axes than the width holds.
    """
    if not 1 <= axes <= width:
        raise DposcopeError(f"{axes} orthonormal axes do not fit in {width} dimensions; ask for 1 … {width}")
    stream = torch.Generator().manual_seed(whole("seed", seed))
    q, r = torch.linalg.qr(torch.randn(width, axes, generator=stream, dtype=torch.float64))
    return q * r.diagonal().sign()  # QR alone prefers some signs


# Signs along the axes


@dataclass(frozen=True, eq=False)
class AxisSigns(ToPandas):
    """Each neuron's sign along each axis, and how often they conflict (paper appendix G: 74.7 % and 74.3 %)."""

    of: Literal["cosine", "change"]
    """Of cos(v_i, u_k), or of the projection change Δ_i along u_k."""
    signs: Tensor
    """−1, 0 or 1, `[r, L, d_mlp]`, int8."""
    random_signs: Tensor
    """The same along as many random orthonormal axes: the control, `[r, L, d_mlp]`, int8."""
    here: Tensor | None = None
    """Which columns are neurons, `[L, d_mlp]`, bool, where blocks differ; None: all are."""

    __repr__ = short_repr

    @property
    def conflicting(self) -> NeuronSet:
        """Neurons positive along one axis and negative along another."""
        return NeuronSet(_conflict(self.signs))

    @property
    def share(self) -> float:
        """Conflicting neurons, as a share of all."""
        return self._share(self.signs)

    @property
    def random_share(self) -> float:
        """The same along the random axes."""
        return self._share(self.random_signs)

    def _share(self, signs: Tensor) -> float:
        conflicts = _conflict(signs)
        return float((conflicts if self.here is None else conflicts[self.here]).double().mean())

    @property
    def chance(self) -> float:
        """1 − 2^(1−r), the share if signs were fair coins: 0.75 for three axes."""
        return 1 - 2.0 ** (1 - len(self.signs))

    def to_polars(self) -> pl.DataFrame:
        """One row: of, axes, neurons, share, random_share, chance."""
        return pl.DataFrame(
            {
                "of": [self.of],
                "axes": [len(self.signs)],
                "neurons": [self.signs[0].numel() if self.here is None else int(self.here.sum())],
                "share": [self.share],
                "random_share": [self.random_share],
                "chance": [self.chance],
            }
        )


def _conflict(signs: Tensor) -> Tensor:
    return (signs > 0).any(0) & (signs < 0).any(0)


def alignment_signs(lm: LanguageModel, subspace: Subspace, *, seed: int = 0) -> AxisSigns:
    """Signs of cos(v_i, u_k) of every value vector with every axis, and with random axes.

    Args:
        lm: the model.
        subspace: its axes.
        seed: of the random axes.
    """

    check_lm(lm)
    _check_axes(lm, subspace)
    # A cosine has the sign of the dot product.
    return _signs("cosine", _dots(lm, _with_random(subspace, seed)), lm.here)


def change_signs(
    base: LanguageModel, tuned: LanguageModel, change: Contributions, subspace: Subspace, *, seed: int = 0
) -> AxisSigns:
    """Signs of Δ_i along every axis, (m_i^pre v_i^pre − m_i^post v_i^post)·u_k, and along random axes.

    Args:
        base: the model before tuning.
        tuned: the model after it.
        change: of these two models; its mean activations are used, whatever its direction.
        subspace: axes in the base model's residual stream.
        seed: of the random axes.

    Raises:
        DposcopeError: `change` is of other models.
    """
    for side, lm, key in (("before", base, "fingerprint"), ("after", tuned, "tuned_fingerprint")):
        if change.about.get(key, lm.fingerprint) != lm.fingerprint:
            raise DposcopeError(
                f"the contributions' model {side} tuning is not {lm.name}, by its weights or precision; "
                "make them from these two models"
            )

    axes = _with_random(subspace, seed)
    before, after = _dots(base, axes), _dots(tuned, axes)
    first, last = change.before.written, change.after.written
    return _signs("change", (first - last) * before + last * (before - after), change.here)


def _check_axes(lm: LanguageModel, subspace: Subspace) -> None:
    check_kind("subspace", subspace, Subspace, "what dposcope.svd_subspace returns")
    if len(subspace.axes) != lm.d_model:
        raise DposcopeError(
            f"axes of width {len(subspace.axes)} do not fit a model of width {lm.d_model}; make the subspace from this "
            "model"
        )


def _with_random(subspace: Subspace, seed: int) -> Tensor:
    """The axes, then as many random ones, `[d, 2r]`: one pass over the value vectors serves both."""
    return torch.cat([subspace.axes, random_axes(*subspace.axes.shape, seed=seed)], dim=1)


@torch.no_grad()
def _dots(lm: LanguageModel, axes: Tensor) -> Tensor:
    """v_i·u_k of every value vector, `[k, L, d_mlp]`, float64 on the CPU."""
    blocks = [lm.value_vectors(block) for block in range(lm.n_blocks)]
    return torch.stack([(vectors.double() @ axes.to(vectors.device)).T.cpu() for vectors in blocks], dim=1)


def _signs(of: Literal["cosine", "change"], values: Tensor, here: Tensor | None) -> AxisSigns:
    own, random = values.sign().to(torch.int8).chunk(2)
    return AxisSigns(of, own, random, here)
