"""Models of the Hugging Face hub: how they are named, and whether the hub answers."""

import difflib
import re
from typing import Final

from dposcope.errors import DposcopeError
from dposcope.model.bundled import BUNDLED

PREFIX: Final = "hf:"
"""Before the name of a model of the hub that looks like another one."""
_ID: Final = re.compile(r"\w[\w.-]*(/[\w.-]+)?")
_NEAR: Final = 0.6
"""Likeness of a name to a bundled one, from 0 to 1, from which on it is taken for a slip. `gpt2` and the other names of
the hub without an owner are far below."""
_PATIENCE: Final = 5.0
"""Seconds until the hub must have begun to answer."""


def hub_id(name: str) -> str:
    """The id of a model of the hub, without the prefix."""
    return name.removeprefix(PREFIX)


def check_hub_name(name: str) -> None:
    """Refuse a name that is none of the hub, or a slip in a bundled one, without asking the hub.

    Raises:
        DposcopeError: it says which name was meant, where one is near.
    """
    if not _ID.fullmatch(hub_id(name)):
        raise DposcopeError(f"{name!r} is not a model; give a folder, a .gguf file, a bundled name or a hub id")
    plain = "/" not in name and not name.startswith(PREFIX)
    near = difflib.get_close_matches(name, BUNDLED, n=1, cutoff=_NEAR) if plain else []
    if near:
        raise DposcopeError(
            f"{name!r} is not a model here. Did you mean the bundled {near[0]!r}? A model of the hub is {PREFIX}{name}"
        )


def hub_answers(model: str) -> bool:
    """Whether the hub can be asked for a model now. The loaders would try for minutes.

    Args:
        model: its id. That the hub knows no such model, or does not give it to everyone, is an answer.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        HfApi().model_info(model, timeout=_PATIENCE)
    except HfHubHTTPError:
        return True
    except Exception:  # of whichever library makes the connection
        return False
    return True
