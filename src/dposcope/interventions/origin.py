"""Facts about an edit's origin: negative control, what was trained. Settings import this, so it imports no torch."""

from collections.abc import Mapping
from typing import Final, Literal

Control = Literal["shuffled-scores", "random-direction"]

WHAT: Final[Mapping[str, str]] = {
    "shuffled-scores": "the scores used to make pairs and to select edits were shuffled among the texts",
    "random-direction": "a random direction was used instead of the concept's",
}
"""Control → its description."""


def warning(control: str) -> str:
    """The first sentences of a control's report and model card."""
    what = WHAT.get(control, control)
    return f"Negative control, not for use: {what}. It shows what the search finds by chance."


Trained = Literal["nothing", "gains"]
"""What was trained to make an edit. Gains are learned from preference pairs; no other weight is trained."""
