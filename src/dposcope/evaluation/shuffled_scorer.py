"""Scores that say nothing of their texts: the negative control of all that is learned or chosen by scores.

Their distribution is that of true scores, so whatever a search then finds, it found by chance.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dposcope.artefacts import text_digest
from dposcope.errors import DposcopeError
from dposcope.evaluation.scorers import Scorer, scorer_digest
from dposcope.evaluation.trained_scorer import score_spoken


class PermutedScorer:
    """The true scores of the texts that it is asked about together, dealt out among them anew; blank ones keep 0."""

    def __init__(self, scorer: Scorer, *, seed: int) -> None:
        """`seed` is of the permutation, which depends on nothing else but the number of different texts."""
        self.name = f"shuffled scores of {scorer.name}"
        self._scorer = scorer
        self._seed = seed

    @property
    def digest(self) -> str | None:
        """That of the scorer behind."""
        return scorer_digest(self._scorer)

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Scores in [0, 1], `[n]` in the order of the texts; a text that comes twice has one score."""
        return score_spoken(texts, self._permuted)

    def _permuted(self, texts: Sequence[str]) -> NDArray[np.float64]:
        distinct = list(dict.fromkeys(texts))
        scores = self._scorer(distinct)[np.random.default_rng(self._seed).permutation(len(distinct))]
        dealt = dict(zip(distinct, scores.tolist(), strict=True))
        return np.array([dealt[text] for text in texts], dtype=np.float64)


class DrawnScorer:
    """Any text gets a score drawn by lot from a pool of true ones; always the same one, whatever it is asked with.

    A permutation among the texts of one edit would leave their mean, by which edits are chosen, as it is.
    """

    def __init__(self, pool: Sequence[float], *, of: str, seed: int) -> None:
        """What is drawn from.

        Args:
            pool: true scores of other texts, in [0, 1].
            of: the name of the scorer that gave them.
            seed: of the draws.

        Raises:
            DposcopeError: the pool is empty.
        """
        if not pool:
            raise DposcopeError("there is nothing to draw scores from; give at least one")
        self.name = f"shuffled scores of {of}"
        self._pool = tuple(pool)
        self._seed = seed

    @property
    def digest(self) -> str:
        """Of the pool and the seed."""
        return text_digest(str(self._seed), *map(repr, self._pool))

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Scores in [0, 1], `[n]` in the order of the texts."""
        return score_spoken(texts, self._drawn)

    def _drawn(self, texts: Sequence[str]) -> NDArray[np.float64]:
        lots = [int(text_digest(str(self._seed), text), 16) % len(self._pool) for text in texts]
        return np.array([self._pool[lot] for lot in lots], dtype=np.float64)
