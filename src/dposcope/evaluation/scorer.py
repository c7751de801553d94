"""How much of the concept each text has: a scorer is a name, a digest and a function."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dposcope.artefacts import text_digest
from dposcope.errors import DposcopeError, plural

ScoreTexts = Callable[[Sequence[str]], ArrayLike]
"""Takes n different texts, none blank, and gives n numbers in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Scorer:
    """A judge of texts, which asks its function about each different text once for as long as it lives.

    A blank text scores 0 without being asked about: it says nothing, so nothing rude, and a classifier would answer
    with its prior (0.04 for the embedded one). `share_empty` in `repetition` tells how often that happened.
    """

    name: str
    """What reports call it: enough to tell which judge gave a number."""
    digest: str
    """Of what decides its scores, such as weights or words: two scorers may have the same name."""
    score: ScoreTexts = field(repr=False)
    _known: dict[str, float] = field(init=False, repr=False, default_factory=dict[str, float])
    """Text → score. Greedy continuations of nearby edits agree on many prompts, so a search asks the same again."""

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Scores in [0, 1], `[n]`, in the order of the texts.

        Raises:
            DposcopeError: one text was given in the place of a list; the function gave not one number per text, or
                one that is not in [0, 1].
        """
        if isinstance(texts, str):
            raise DposcopeError("a scorer takes a list of texts, and was given one text; put it in a list")
        unseen = [text for text in dict.fromkeys(texts) if text.strip() and text not in self._known]
        if unseen:
            self._known.update(zip(unseen, self._checked(unseen), strict=True))
        return np.array([self._known.get(text, 0.0) for text in texts], dtype=np.float64)

    def _checked(self, texts: Sequence[str]) -> list[float]:
        scores = np.asarray(self.score(texts), dtype=np.float64)
        if scores.shape != (len(texts),):
            raise DposcopeError(
                f"scorer {self.name} gave shape {scores.shape} for {plural(len(texts), 'text')}; "
                "return one number per text"
            )
        # Written so that NaN fails too.
        if not ((scores >= 0) & (scores <= 1)).all():
            raise DposcopeError(f"scorer {self.name} gave a score outside [0, 1]; rescale its answers")
        return scores.tolist()

    def shuffled(self, seed: int) -> "Scorer":
        """A negative control: the true scores of the texts it is first asked about together, dealt out among them anew.

        Their distribution stays, so what is then learned or chosen by these scores was found by chance.

        Args:
            seed: of the permutation, which depends on nothing else but the number of texts.
        """

        def dealt(texts: Sequence[str]) -> NDArray[np.float64]:
            return self(texts)[np.random.default_rng(seed).permutation(len(texts))]

        return Scorer(f"shuffled scores of {self.name}", text_digest("shuffled", self.digest, str(seed)), dealt)


def mean_of(scorers: Sequence[Scorer]) -> Scorer:
    """The mean of what several scorers give, all of the same weight: what fools one of them fools their mean less.

    Raises:
        DposcopeError: there is none.
    """
    if not scorers:
        raise DposcopeError("a mean of no scorers is no score; give one at least")
    several = tuple(scorers)

    def mean(texts: Sequence[str]) -> NDArray[np.float64]:
        return np.mean([scorer(texts) for scorer in several], axis=0)

    name = "mean of " + " and ".join(scorer.name for scorer in several)
    return Scorer(name, text_digest(*(scorer.digest for scorer in several)), mean)


def drawn_scores(pool: Sequence[float], *, of: str, seed: int) -> Scorer:
    """A negative control: any text gets a score drawn from a pool of true ones, the same whatever it is asked with.

    A permutation among the texts of one edit (`Scorer.shuffled`) would leave their mean, by which edits are chosen.

    Args:
        pool: true scores of other texts, in [0, 1].
        of: the name of the scorer that gave them.
        seed: of the draws.

    Raises:
        DposcopeError: the pool is empty.
    """
    if not pool:
        raise DposcopeError("there is nothing to draw scores from; give at least one")
    scores = tuple(pool)

    def drawn(texts: Sequence[str]) -> list[float]:
        return [scores[int(text_digest(str(seed), text), 16) % len(scores)] for text in texts]

    return Scorer(f"shuffled scores of {of}", text_digest(str(seed), *map(repr, scores)), drawn)
