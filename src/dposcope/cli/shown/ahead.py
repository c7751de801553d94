"""How long the stages of about the same length take that are still ahead."""

from collections.abc import Callable


class Ahead:
    """Stages that were announced, and the mean time of those that are over."""

    def __init__(self, time: Callable[[], float]) -> None:
        """`time` is the clock, in seconds."""
        self._time = time
        self._took: list[float] = []
        self._began: float | None = None
        self._next = False
        self.stages = 0
        """That are not over."""

    def expect(self, stages: int) -> None:
        """So many are ahead, and the next stage is the first of them. More than before: others, of another length."""
        if stages > self.stages:
            self._took.clear()
        self.stages, self._next = stages, True

    def begin(self) -> None:
        """A stage begins; it counts where it was announced."""
        self._began, self._next = self._time() if self._next else None, False

    def end(self) -> None:
        """The stage that began is over."""
        if self._began is not None:
            self._took.append(self._time() - self._began)
            self._began = None
            self.stages -= 1

    def pass_over(self) -> None:
        """The next one was done before."""
        if self._next:
            self._next = False
            self.stages -= 1

    @property
    def seconds(self) -> float | None:
        """Of all that are not over; None before the first is over, and after the last."""
        if not self._took or self.stages <= 0:
            return None
        return sum(self._took) / len(self._took) * self.stages
