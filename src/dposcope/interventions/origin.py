"""What an edit's record says of where it comes from. No torch is imported: settings name these, too."""

from collections.abc import Mapping
from typing import Final, Literal

Control = Literal["shuffled-scores", "random-direction"]

WHAT: Final[Mapping[str, str]] = {
    "shuffled-scores": "the scores by which pairs were made and edits chosen were shuffled among the texts",
    "random-direction": "a random direction stood in the place of the concept's",
}
"""Control → what was done, for people."""


def warning(control: str) -> str:
    """What a report and a model card say before anything else."""
    what = WHAT.get(control, control)
    return f"Negative control, not for use: {what}. It shows what the search finds where there is nothing to find."


Trained = Literal["nothing", "gains"]
"""What was trained to make an edit: gains are learned from preference pairs; all other weights stay."""
