"""Facts about an edit's origin: negative control, what was trained. Settings import this, so it imports no torch."""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, cast, get_args

from dposcope.errors import DposcopeError

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
"""What was trained to make an edit. Gains are learned from preference pairs, perhaps by a teacher that was
trained on them too; nothing else in an edit is trained."""


_USED: Final[Mapping[str, tuple[str, Callable[[Any], bool]]]] = {
    "fingerprint": (
        "the fingerprint of a model, such as llama-00ff",
        lambda value: isinstance(value, str) and re.fullmatch(r"[\w.+-]{1,200}", value, re.ASCII) is not None,
    ),
    "negative_control": (f"one of {', '.join(WHAT)}", lambda value: isinstance(value, str) and value in WHAT),
    "scaled_by": (
        "a finite number",
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value),
    ),
}
"""The facts of an edit's file that decide something: what each must be, and whether it is. Others are only shown."""
_MOST_FACTS: Final = 100_000
"""Characters of all facts as JSON: a card lists them, and each copy of the edit carries them."""


def checked_facts(facts: object, trained: object, source: object) -> tuple[dict[str, Any], Trained]:
    """What an edit's file says of its making, which a stranger may have written: facts to show, and what was trained.

    Args:
        facts: name → value, as JSON gives it.
        trained: as the file has it.
        source: the file, for messages.

    Raises:
        DposcopeError: these are no facts; there are too many; or one that is used is of another kind.
    """
    mend = "make the edit again, or mend that file"
    if not isinstance(facts, Mapping):
        raise DposcopeError(f"{source} says nothing of how the edit was made; {mend}")
    told = cast(Mapping[str, Any], facts)
    if len(json.dumps(told)) > _MOST_FACTS:
        raise DposcopeError(f"{source} says too much of how the edit was made, over {_MOST_FACTS:,} characters; {mend}")
    for name, (what, fits) in _USED.items():
        if name in told and not fits(told[name]):
            raise DposcopeError(f"{name} in {source} is not {what}; {mend}")
    if trained not in get_args(Trained):
        raise DposcopeError(f"{source} does not say what was trained, {' or '.join(get_args(Trained))}; {mend}")
    return dict(told), cast(Trained, trained)
