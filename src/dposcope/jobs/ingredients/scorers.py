"""Scorers beside the first one and the judge: `--also-score`."""

from collections.abc import Mapping
from dataclasses import dataclass

from dposcope.data.concept import TOXICITY, Concept
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.outcome import NO_SCORER
from dposcope.evaluation.neural import neural_folder
from dposcope.evaluation.scorer import Scorer
from dposcope.evaluation.scorers import load_scorer


@dataclass(frozen=True)
class FurtherScorers:
    """Scorers beside the first one and the judge."""

    scorers: Mapping[str, Scorer]
    """By the names that settings give them."""
    notes: tuple[str, ...] = ()


_NEURAL = "neural"
_MEASURES = ("toxicity", "judge", *NO_SCORER, "f1", "logppl", "harmless_logppl", "relevance")
_COLUMNS = ("protocol", "model", "fingerprint", "condition", "measure", "row", "prompt", "continuation")


def read_further(names: list[str] | None, *, scorer: str, concept: Concept) -> FurtherScorers:
    """The scorers of `--also-score`.

    Args:
        names: of them; None: the neural one, where it is in the cache and the concept is toxicity.
        scorer: name of the first one.
        concept: that is measured.

    Raises:
        DposcopeError: a name is given twice, scores already, is that of another measure, or names no scorer.
    """
    if names is None:
        if concept != TOXICITY or scorer == _NEURAL:
            return FurtherScorers({})
        if not neural_folder().is_dir():
            note = "No further scorer: the neural one is not in the cache; dposcope models get neural adds it."
            return FurtherScorers({}, (note,))
        names = [_NEURAL]
    if names == ["none"]:
        return FurtherScorers({})
    for name in names:
        if name == "none" or names.count(name) > 1:
            raise DposcopeError(f"--also-score {name} stands beside other scorers; give each name once, or none alone")
        if name == scorer:
            raise DposcopeError(f"--also-score {name} is the scorer already; name another one")
        if name in _MEASURES or name in _COLUMNS:
            raise DposcopeError(f"--also-score {name} has the name of another column; give the scorer another name")
    return FurtherScorers({name: load_scorer(name) for name in names})
