"""The edits that a search may choose from: gains of one source at some strength, with or without an ablation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dposcope.data.given.numbers import whole
from dposcope.data.short import short_repr
from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains

NO_GAINS = "none"
"""The source of an edit that is an ablation alone."""
MOST_TILT = 0.75
MOST_ABLATION = 2.0


@dataclass(frozen=True)
class Point:
    """Everything that a trial chooses: source, strength, tilt, ablation."""

    source: str
    """Source of the gains: a name in the family's `sources`, or `none`."""
    strength: float = 0.0
    """Strength of the gains, in the source's own unit; 0: no gains."""
    tilt: float = 0.0
    """How much stronger the gains are in later blocks than in earlier ones, −0.75 … 0.75: block b of L has
    strength · (1 + tilt · (2 b / (L − 1) − 1))."""
    ablate: float = 0.0
    """w, the share of the direction that is ablated from the MLPs of the later half of the blocks."""

    __repr__ = short_repr

    def scaled(self, factor: float) -> "Point":
        """The same point with gains and ablation multiplied by a factor."""
        return Point(self.source, factor * self.strength, self.tilt, factor * self.ablate)


@dataclass(frozen=True, eq=False)
class Source:
    """A method that gives gains of any strength."""

    at: Callable[[float], Edit]
    """Strength → gains of neurons, and possibly of heads; strength 0 → all gains are 1."""
    start: float
    """First guess of a good strength."""
    most: float
    """The largest strength to try."""

    @classmethod
    def line(cls, learned: Gains | Edit, *, start: float = 1.0, most: float = 1.5) -> "Source":
        """Learned gains g at any strength s: 1 + s (g − 1). One training gives all strengths."""
        edit = learned if isinstance(learned, Edit) else Edit.of(learned)
        return cls(edit.strength, start, most)


@dataclass(frozen=True, eq=False)
class Family:
    """All edits that a search may choose from."""

    sources: Mapping[str, Source]
    direction: Direction | Tensor
    """The direction to ablate, or a vector `[d]`."""
    n_blocks: int
    ablates: bool = True
    """Whether points may ablate."""

    __repr__ = short_repr

    def __post_init__(self) -> None:
        """Refuse a family without members."""
        _check_sources(self.sources)
        object.__setattr__(self, "n_blocks", whole("n_blocks", self.n_blocks))
        if not self.sources and not self.ablates:
            raise DposcopeError("there is nothing to search: no source of gains and no ablation")
        if NO_GAINS in self.sources:
            raise DposcopeError(f"a source may not be called {NO_GAINS!r}; that is the edit without gains")

    @property
    def names(self) -> list[str]:
        """What `Point.source` may be."""
        return [*self.sources, *([NO_GAINS] if self.ablates else [])]

    def edit(self, point: Point) -> Edit:
        """The edit at a point.

        Raises:
            DposcopeError: a source that is not there, or an ablation where there is none.
        """
        if point.source not in self.names:
            raise DposcopeError(f"no source {point.source!r}; there are {', '.join(self.names)}")
        if point.ablate and not self.ablates:
            raise DposcopeError("this family has no ablation")
        edit = Edit()
        if point.source != NO_GAINS and point.strength:
            whole = self.sources[point.source].at(point.strength)
            tilted = [_tilted(gains, point.tilt) for gains in (whole.gains, whole.head_gains) if gains is not None]
            edit = replace(Edit.of(*tilted), trained=whole.trained)
        if point.ablate:
            later = tuple(range(self.n_blocks // 2, self.n_blocks))
            edit = Edit.of(edit, ablate(self.direction, weight=point.ablate, blocks=later, attention=False))
        return edit

    def likely(self) -> list[Point]:
        """Each kind of edit at its first guess of a strength: each source alone, and the ablation alone."""
        points = [Point(name, source.start) for name, source in self.sources.items()]
        return [*points, *([Point(NO_GAINS, ablate=1.0)] if self.ablates else [])]

    def warm_starts(self) -> list[Point]:
        """Points to try first: each source at its first guess, at half, and with an ablation; an ablation only."""
        points: list[Point] = []
        for name, source in self.sources.items():
            points += [Point(name, source.start), Point(name, source.start / 2)]
            if self.ablates:
                points.append(Point(name, source.start, 0.0, 0.5))
        if self.ablates:
            points.append(Point(NO_GAINS, 0.0, 0.0, 1.0))
        return points


def _check_sources(given: object) -> None:
    if not isinstance(given, Mapping):
        raise DposcopeError(f"sources is a {type(given).__name__}; give a dictionary, such as {{'learned': source}}")


def _tilted(gains: Gains, tilt: float) -> Gains:
    if tilt == 0:
        return gains
    place = torch.linspace(-1, 1, len(gains.values), dtype=torch.float64).unsqueeze(1)
    return replace(gains, values=1 + (1 + tilt * place) * (gains.values.double() - 1))
