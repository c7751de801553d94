"""Scorers: a scorer gives each text a score for the concept. It is a name, a digest and a function."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dposcope.artefacts import text_digest
from dposcope.data.given.numbers import seed_of
from dposcope.data.short import short_repr
from dposcope.data.texts import listed
from dposcope.errors import DposcopeError, first_line, is_memory, plural

READ: Final = 100_000
"""Characters of a text that are scored, from its start. No model writes so many here; of longer ones, which a file may
hold, some scorers count every run of letters, which takes hundreds of bytes for each."""

ScoreTexts = Callable[[Sequence[str]], ArrayLike]
"""Takes n different texts, none of them blank, and returns n numbers in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Scorer:
    """Scores texts, and caches the score of each text.

    A blank text scores 0 without a call of the function: it has no content, but a classifier would return its prior
    (0.04 for `profanity`). `share_empty` in `repetition.py` measures how many texts are blank.
    """

    name: str
    """Its name in reports."""
    digest: str
    """Digest of everything that its scores depend on, such as weights or words. Two scorers may have the same name."""
    score: ScoreTexts = field(repr=False)
    _known: dict[str, float] = field(init=False, repr=False, default_factory=dict[str, float])
    """Cache: text → score. In a search, similar edits write the same text for many prompts."""

    __repr__ = short_repr

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Scores in [0, 1], `[n]`, in the order of the texts, of which the first 100,000 characters are read.

        Raises:
            DposcopeError: `texts` is a single text; or the function failed, or did not return one number in [0, 1] per
                text.
        """
        texts = [text[:READ] for text in listed("texts", texts)]
        unseen = [text for text in dict.fromkeys(texts) if text.strip() and text not in self._known]
        if unseen:
            self._known.update(zip(unseen, self._checked(unseen), strict=True))
        return np.array([self._known.get(text, 0.0) for text in texts], dtype=np.float64)

    def _checked(self, texts: Sequence[str]) -> list[float]:
        try:
            found = np.asarray(self.score(texts))
        except DposcopeError:
            raise
        except (Exception, SystemExit) as error:  # it may be anybody's function
            if is_memory(error):
                raise
            raise DposcopeError(
                f"scorer {self.name} failed ({type(error).__name__}: {first_line(error)}); mend it, --debug shows where"
            ) from error
        if found.dtype.kind not in "biuf":
            raise DposcopeError(f"scorer {self.name} gave something other than numbers; return one number per text")
        scores = found.astype(np.float64)
        if scores.shape != (len(texts),):
            raise DposcopeError(
                f"scorer {self.name} gave shape {scores.shape} for {plural(len(texts), 'text')}; "
                "return one number per text"
            )
        # This form of the condition also refuses NaN.
        if not ((scores >= 0) & (scores <= 1)).all():
            raise DposcopeError(f"scorer {self.name} gave a score outside [0, 1]; rescale its answers")
        return scores.tolist()

    def shuffled(self, seed: int) -> "Scorer":
        """A negative control: the true scores, permuted among the texts of the first call.

        The distribution of scores is unchanged, so anything learned or selected by them is chance.

        Args:
            seed: of the permutation, which depends only on it and on the number of texts.
        """
        seed = seed_of(seed)

        def permuted(texts: Sequence[str]) -> NDArray[np.float64]:
            return self(texts)[np.random.default_rng(seed).permutation(len(texts))]

        return Scorer(f"shuffled scores of {self.name}", text_digest("shuffled", self.digest, str(seed)), permuted)


def check_scorer(given: object, name: str = "scorer") -> None:
    """Refuse what is no scorer, such as its name or a plain function, which has no name for reports.

    Args:
        given: what was given for it.
        name: of the argument, for the message.

    Raises:
        DposcopeError: it is none.
    """
    if not callable(given) or not hasattr(given, "name"):
        how = f"dposcope.load_scorer({given!r})" if isinstance(given, str) else "what dposcope.load_scorer returns"
        raise DposcopeError(f"{name} is a {type(given).__name__}; give {how}")


def mean_of(scorers: Sequence[Scorer]) -> Scorer:
    """The unweighted mean of several scorers. It is harder to exploit than a single scorer.

    Raises:
        DposcopeError: no scorer is given, or something else.
    """
    several = _several(scorers)
    if not several:
        raise DposcopeError("there is no mean of no scorers; give at least one")

    def mean(texts: Sequence[str]) -> NDArray[np.float64]:
        return np.mean([scorer(texts) for scorer in several], axis=0)

    name = "mean of " + " and ".join(scorer.name for scorer in several)
    return Scorer(name, text_digest(*(scorer.digest for scorer in several)), mean)


def _several(given: object) -> tuple[Scorer, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise DposcopeError("one scorer was given, and a list of them belongs here; write it in brackets: […]")
    several = tuple(cast(Iterable[Scorer], given))
    for one in several:
        check_scorer(one)
    return several


def drawn_scores(pool: Sequence[float], *, of: str, seed: int) -> Scorer:
    """A negative control: each text gets a random score from a pool of true scores. Equal texts get equal scores.

    `Scorer.shuffled` would not do for edits: a permutation keeps the mean score, by which edits are selected.

    Args:
        pool: true scores of other texts, in [0, 1].
        of: the name of the scorer that gave them.
        seed: of the draws.

    Raises:
        DposcopeError: the pool is empty.
    """
    if not pool:
        raise DposcopeError("the pool of scores is empty; give at least one")
    scores = tuple(pool)

    def drawn(texts: Sequence[str]) -> list[float]:
        return [scores[int(text_digest(str(seed), text), 16) % len(scores)] for text in texts]

    return Scorer(f"shuffled scores of {of}", text_digest(str(seed), *map(repr, scores)), drawn)
