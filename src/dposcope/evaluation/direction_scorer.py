"""A scorer that the model itself gives: where a text's residual stream lies along a direction (SPEC section 7)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from dposcope.artefacts import tensor_fingerprint, text_digest
from dposcope.data.comments import Comments
from dposcope.directions.direction import Direction
from dposcope.directions.features import residual_features
from dposcope.evaluation.trained_scorer import score_spoken
from dposcope.model.batches import encode
from dposcope.model.generate import Progress
from dposcope.model.language_model import LanguageModel

MAX_TOKENS = 128
"""A text's first tokens, as many as a direction is made from."""


@dataclass(frozen=True, eq=False)
class DirectionScorer:
    """Probability that a text has the concept, by the projection of its mean residual stream on a direction alone.

    No classifier and no list of words ranks texts then, only labelled comments and the model. The model must be the
    plain one whenever texts are scored: an edit along the direction would move its own measure.
    """

    lm: LanguageModel
    direction: Direction
    slope: float
    """Of the log-odds, per unit of projection."""
    intercept: float
    batch_size: int = 32

    @classmethod
    def fit(
        cls,
        lm: LanguageModel,
        direction: Direction,
        comments: Comments,
        *,
        batch_size: int = 32,
        progress: Progress | None = None,
    ) -> "DirectionScorer":
        """Logistic regression with balanced classes on one number a comment; it ranks as the projection does.

        Args:
            lm: the plain model.
            direction: its concept's side positive.
            comments: labelled; those that a judge is trained on must be others.
            batch_size: texts at a time.
            progress: called after each batch.
        """
        found = _projections(lm, direction, comments.texts, batch_size, progress)
        # Unit variance, or the penalty would weigh projections of another scale otherwise.
        scale = float(found.std()) or 1.0
        fitted = LogisticRegression(class_weight="balanced").fit(found[:, None] / scale, comments.labels)
        slope, intercept = cast(NDArray[np.float64], fitted.coef_)[0, 0], fitted.intercept_[0]
        return cls(lm, direction, float(slope) / scale, float(intercept), batch_size)

    @property
    def name(self) -> str:
        """Names the direction's kind."""
        return f"projection on the direction ({self.direction.kind})"

    @property
    def digest(self) -> str:
        """What decides its answers, beside its name."""
        vector = tensor_fingerprint({"W": self.direction.vector})
        return text_digest(self.lm.fingerprint, vector, repr(self.direction.block), repr((self.slope, self.intercept)))

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Scores in [0, 1], `[n]` in the order of the texts; 0 for a text without a token of its own."""

        def score(spoken: Sequence[str]) -> NDArray[np.float64]:
            special = self.lm.special_ids
            ids = encode(self.lm, spoken, max_tokens=MAX_TOKENS, keep="start")
            own = [text for text, row in zip(spoken, ids, strict=True) if not special.issuperset(row)]
            scores = np.zeros(len(spoken))
            if own:
                along = _projections(self.lm, self.direction, own, self.batch_size)
                scores[[not special.issuperset(row) for row in ids]] = expit(self.slope * along + self.intercept)
            return scores

        return score_spoken(texts, score)


def _projections(
    lm: LanguageModel,
    direction: Direction,
    texts: Sequence[str],
    batch_size: int,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """x·W/|W| of each text's mean residual stream, `[n]`."""
    features = residual_features(
        lm, texts, block=direction.block, max_tokens=MAX_TOKENS, batch_size=batch_size, progress=progress
    )
    return (features.vectors @ direction.unit).numpy()
