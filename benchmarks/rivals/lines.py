"""What a rival is: lines of interventions, each with one strength."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dposcope.model.hooks import Intervention


@dataclass(frozen=True, eq=False)
class Line:
    """Interventions that differ in strength alone; at 0 they are the plain model."""

    name: str
    """Within its rival; may be empty where that has one line."""
    at: Callable[[float], Intervention]
    symbol: str = "s"
    """What the strength is called in the method's own paper."""
    start: float = 1.0
    """First strength tried when strengths are placed by what they cost."""
    most: float = 4.0
    """Largest strength that means anything."""
    strengths: tuple[float, ...] | None = None
    """Given ones, for a strength that is a count or a share; None: placed by cost."""
    always: tuple[float, ...] = ()
    """Strengths measured whatever they cost, such as 1 of a tuned model."""


@dataclass(frozen=True, eq=False)
class Rival:
    """One row of the table."""

    name: str
    what: str
    """What is done, with its source, in one sentence."""
    lines: tuple[Line, ...]
    stages: tuple[str, ...] = ()
    """Names of the run's stages that made what it is built of: their time is the time to obtain it."""
    depends_on: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What decides its interventions beside model and settings: digests."""
    folds: bool = True
    """Whether it is in the weights, at no cost at run time; otherwise hooks do it."""
    position_zero: bool = False
    """Whether to add a row whose cost is measured as the published code does: edit at position 0 of each window."""
    trained: bool = False
    """Whether somebody trained it before; its time is read from its folder or told."""
    obtained: tuple[float | None, float | None] = (None, None)
    """Minutes and gigabytes, where it was trained before."""
