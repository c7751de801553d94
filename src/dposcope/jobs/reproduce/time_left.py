"""The time that is left of a reproduction: its steps are known from the start, and estimated."""

from collections.abc import Callable, Sequence
from time import monotonic

from dposcope.jobs.reproduce.estimate import Estimate


class TimeLeft:
    """Estimates of the steps, scaled by how long those took that are over."""

    def __init__(self, estimates: Sequence[Estimate], *, time: Callable[[], float] = monotonic) -> None:
        """`estimates` are of all steps, in order; `time` is the clock, in seconds."""
        self._of = {one.name: one.seconds for one in estimates if not one.done}
        self._time = time
        self._began = time()
        self._over = 0.0

    def finished(self, name: str) -> None:
        """A step is over."""
        self._over += self._of.pop(name, None) or 0.0

    @property
    def seconds(self) -> float | None:
        """Of all steps that are not over; None where the size of a model is unknown."""
        left = [*self._of.values()]
        if any(one is None for one in left):
            return None
        pace = (self._time() - self._began) / self._over if self._over else 1.0
        return pace * sum(one for one in left if one is not None)
