"""Options that count only where another option says so, and the one line that refuses them elsewhere."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

GIVEN: Final = "given"
"""Key in the context of a validation: names of the options that a person gave; a program filled in the others."""
EITHER: Final = "give one of them, or leave {option} out"
"""Mend, where several choices would make an option count."""


@dataclass(frozen=True)
class Only:
    """Options that count only where something holds. Elsewhere they would be ignored, and whoever gives one is told."""

    options: tuple[str, ...]
    """Names of the fields."""
    holds: Callable[[Any], bool]
    """Whether they count, given the settings."""
    what: str
    """What they are for, in the words of a message: `--train lora`."""
    mend: str = "give that, or leave {option} out"

    def refusal(self, name: str) -> str:
        """The line for one of the options: what it is for; how to mend it."""
        option = option_of(name)
        return f"{option} is for {self.what}; {self.mend.format(option=option)}"


def option_of(name: str) -> str:
    """A field as the command line spells it: `--lora-rank` of `lora_rank`."""
    return f"--{name.replace('_', '-')}"


def is_table(source: str | None) -> bool:
    """Whether a source has columns: a text file has none, and neither has the built-in text."""
    return source is not None and not source.lower().endswith(".txt")
