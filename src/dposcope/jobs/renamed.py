"""Names of options that people try in a command which calls that thing otherwise, and what it is called there."""

from collections.abc import Iterable, Mapping
from typing import Final

_MEASURED: Final = "--neutral is text to measure on"

RENAMED: Final[Mapping[str, Mapping[str, str]]] = {
    "edit": {"max-logppl-increase": "--logppl-budget", "mix": "--parts", "form": "--parts"},
    "tune": {
        "report-neutral": f"--neutral ({_MEASURED}; the text to learn from is --learn-text)",
        "logppl-budget": "--max-logppl-increase",
        "mix": "--parts",
        "form": "--parts",
    },
    "pairs": {
        "text": "--learn-text",
        "prose-column": "--learn-text-column",
        "neutral": f"--learn-text ({_MEASURED})",
    },
    "dpo": {
        "text": "--learn-text",
        "neutral": f"--learn-text ({_MEASURED})",
        "neutral-column": "--learn-text-column",
    },
    "reproduce": {"text": "--learn-text", "prose-column": "--learn-text-column"},
    "probe": {"direction": "--kind"},
    "lens": {"count": "--tokens"},
}
"""Command → name → the option that it has instead, with a word about why."""


def other_name(option: str, commands: Iterable[str]) -> str | None:
    """What an option that the commands do not have is called there; None where it is no known name.

    Args:
        option: as it was written, on the command line or in a file.
        commands: the commands that were meant; the first that knows the name answers.
    """
    name = option.partition("=")[0].lstrip("-").replace("_", "-")
    return next((RENAMED[one][name] for one in commands if name in RENAMED.get(one, {})), None)
