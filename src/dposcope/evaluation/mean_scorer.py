"""Several scorers as one: what fools one of them fools their mean less."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dposcope.artefacts import text_digest
from dposcope.data.comments import Comments
from dposcope.errors import DposcopeError
from dposcope.evaluation.scorers import Scorer, scorer_digest
from dposcope.evaluation.trained_scorer import TrainedScorer


class MeanScorer:
    """The mean of what several scorers give, each weighing the same."""

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        """At least one scorer.

        Raises:
            DposcopeError: there is none.
        """
        if not scorers:
            raise DposcopeError("a mean of no scorers is no score; give one at least")
        self._scorers = tuple(scorers)

    @classmethod
    def with_trained(cls, first: Scorer, comments: Comments, *, seed: int) -> "MeanScorer":
        """A scorer and one trained from comments: what ranks samples and trials is less the taste of one.

        Args:
            first: such as the embedded one.
            comments: labelled; those that the judge is trained on must be others.
            seed: of the trained scorer.
        """
        labels = [int(label) for label in comments.labels]
        return cls([first, TrainedScorer.fit(comments.texts, labels, seed=seed, name="a scorer from --comments")])

    @property
    def name(self) -> str:
        """Names all of them."""
        return "mean of " + " and ".join(scorer.name for scorer in self._scorers)

    @property
    def digest(self) -> str | None:
        """Of all of them that have one."""
        found = [digest for scorer in self._scorers if (digest := scorer_digest(scorer)) is not None]
        return text_digest(*found) if found else None

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Scores in [0, 1], `[n]` in the order of the texts."""
        return np.asarray(np.mean([scorer(texts) for scorer in self._scorers], axis=0), dtype=np.float64)
