"""Who tells a person how far a run is."""

from typing import Protocol


class Reporter(Protocol):
    """Tells a person how far a run is."""

    def stage(self, title: str) -> None:
        """A stage begins."""
        ...

    def reused(self, title: str) -> None:
        """A stage was done before and is loaded."""
        ...

    def progress(self, done: int, total: int) -> None:
        """Steps within the current stage."""
        ...

    def ahead(self, stages: int) -> None:
        """So many stages of about the same length are ahead, the next one among them."""
        ...

    def step(self, line: str) -> None:
        """A long step begins, with how much is left."""
        ...

    def note(self, line: str) -> None:
        """Something that a person should know, who wants no progress, too."""
        ...


class Quiet:
    """A reporter that says nothing."""

    def stage(self, title: str) -> None:
        """Nothing."""

    def reused(self, title: str) -> None:
        """Nothing."""

    def progress(self, done: int, total: int) -> None:
        """Nothing."""

    def ahead(self, stages: int) -> None:
        """Nothing."""

    def step(self, line: str) -> None:
        """Nothing."""

    def note(self, line: str) -> None:
        """Nothing."""
