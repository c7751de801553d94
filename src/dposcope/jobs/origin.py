"""Whether the edits that a command takes were made for its model, and on prompts that were asked alike."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

import torch

from dposcope.errors import DposcopeError
from dposcope.files import expanded
from dposcope.interventions.edit import Edit
from dposcope.interventions.shipped import edit_file, shipped_edits
from dposcope.model.chat.prompts import asked_how
from dposcope.model.language_model import LanguageModel
from dposcope.shipping.checkpoint import checkpoint_fingerprints
from dposcope.shipping.origin import checkpoint_origin
from dposcope.shipping.skeleton import Skeleton
from dposcope.shipping.stored import Weights

_LARGE = 1_000_000_000
"""Parameters of a large model."""


@dataclass(frozen=True, eq=False)
class Fingerprints:
    """The fingerprints by which an edit may name a loaded model. Each is computed once, when it is first asked for.

    First as the model runs, then in other precisions: the edit may have been made in one, and the weights be the same.
    Each is a pass over all weights, so of a large model there is only the first.
    """

    lm: LanguageModel
    source: str
    """As it was loaded."""
    _known: list[str] = field(default_factory=list[str], init=False, repr=False)

    def __iter__(self) -> Iterator[str]:
        """All of them, those that are known first."""
        place = 0
        while True:
            if place == len(self._known):
                following = next(self._following, None)
                if following is None:
                    return
                self._known.append(following)
            yield self._known[place]
            place += 1

    @cached_property
    def _following(self) -> Iterator[str]:
        return _computed(self.lm, self.source)


def _computed(lm: LanguageModel, source: str) -> Iterator[str]:
    yield lm.fingerprint
    if lm.model.num_parameters() > _LARGE:
        return
    for dtype in (torch.bfloat16, torch.float32):
        if dtype != lm.dtype:
            yield lm.fingerprint_in(dtype)
    # What was rounded on loading is whole in the files.
    folder = expanded(source)
    if folder.is_dir():
        try:
            skeleton = Skeleton.of(folder)
            weights = Weights(folder)
            names = skeleton.stored_names(weights)
        except DposcopeError:  # no safetensors, or names that only loading understands
            return
        yield from checkpoint_fingerprints(skeleton, weights, names)


def check_architecture(edit: Edit, lm: LanguageModel) -> None:
    """Refuse an edit that says it was made for a model of another type.

    Args:
        edit: of any shape.
        lm: its weights are not read.

    Raises:
        DposcopeError: it does.
    """
    checkpoint_origin(edit, lm.model.config.model_type, ())


_OPTIONS: Final = {"system": "--system", "wrap": "--wrap", "prefill": "--prefill"}
"""What an edit says of how prompts were asked, by the option that says it."""


def asked_otherwise(edit: Edit, lm: LanguageModel) -> tuple[str, ...]:
    """A note where an edit was made on prompts that were put to the model in another way; none where it does not say.

    Args:
        edit: as a command made it.
        lm: the model, as it is asked. Its weights are not read.
    """
    if "fingerprint" not in edit.about:  # no command made it
        return ()
    told: Any = edit.about.get("asking")
    made = cast(dict[str, Any], told) if isinstance(told, dict) else None
    now: dict[str, Any] | None = asked_how(lm).get("asking")
    if made == now:
        return ()
    if made is None or now is None:
        how, chat = ("without a chat template", "off") if made is None else ("through a chat template", "on")
        return (f"the edit was made on prompts asked {how}; --chat {chat} asks in that way",)
    other = [
        f"{_given(made.get(name), now.get(name))} {option}"
        for name, option in _OPTIONS.items()
        if made.get(name) != now.get(name)
    ]
    if not other:
        return (
            "the edit was made on prompts asked through another chat template; use the tokenizer that it was made with",
        )
    return (f"the edit was made on prompts asked {', '.join(other)}; give the same options to ask in that way",)


def _given(made: Any, now: Any) -> str:
    return "without" if made is None else "with" if now is None else "with another"


def foreign_edits(edits: Iterable[tuple[str, Path]], lm: LanguageModel, source: str) -> list[str]:
    """A line for each kind of doubt whether edits were made for a model, asked alike; none where all were.

    Args:
        edits: what each is called, and its path without suffix. A file that several name is looked at once.
        lm: the model, loaded, as it is asked. Its weights are read where an edit says what it was made for.
        source: the model's name.

    Raises:
        DposcopeError: see `check_architecture`; or an edit is not there, or damaged.
    """
    fingerprints = Fingerprints(lm, source)
    looked: dict[Path, tuple[str, ...]] = {}
    called: dict[str, list[str]] = {}
    for name, stem in edits:
        if stem not in looked:
            model_type = lm.model.config.model_type
            edit, own = Edit.load(stem), comes_together(source, stem)
            looked[stem] = () if own else checkpoint_origin(edit, model_type, fingerprints)
            looked[stem] += asked_otherwise(edit, lm)
        for note in looked[stem]:
            names = called.setdefault(note, [])
            names += [] if name in names else [name]
    return [f"{', '.join(names)}: {note}" for note, names in called.items()]


def comes_together(model: str, stem: Path) -> bool:
    """Whether both come with dposcope: a bundled model, whose file is checked by its digest, and its own edit."""
    return model in shipped_edits() and not expanded(model).exists() and stem == edit_file(model)
