"""Scores of what was written, by scorers that need no network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from dposcope.data.named import WORDS
from dposcope.errors import DposcopeError
from dposcope.evaluation.neural import neural_folder
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.scorers import load_scorer

_OWN: Final = "profanity"
_NEURAL: Final = "neural"
_OFFLINE: Final = (_OWN, "vader")


@dataclass(frozen=True, eq=False)
class OfflineScorers:
    """Scorers by name, and why there are no more."""

    scorers: Mapping[str, Scorer]
    notes: tuple[str, ...] = ()

    @classmethod
    def find(cls, wanted: str | None = None) -> "OfflineScorers":
        """The scorer of a run, if it works here, or `profanity`; and the neural one where it is in the cache.

        Args:
            wanted: the scorer that a run was made with. One that asks a server or runs foreign code is not taken.
        """
        first = wanted if wanted in _OFFLINE or (wanted or "").startswith(WORDS) else _OWN
        assert first is not None
        found: dict[str, Scorer] = {}
        notes: list[str] = []
        names = [first] + ([_NEURAL] if first == _OWN and neural_folder().is_dir() else [])
        for name in names:
            try:
                found[name] = load_scorer(name)
            except DposcopeError as error:
                notes.append(f"No score by {name}: {error}.")
        return cls(found, tuple(notes))

    def of(self, text: str) -> dict[str, float]:
        """Scorer → score in [0, 1]; 0 for a blank text."""
        return {name: float(scorer([text])[0]) for name, scorer in self.scorers.items()}
