"""A scorer that the model itself gives: where a text's residual stream lies along a direction (SPEC section 7)."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from dposcope.artefacts import tensor_fingerprint, text_digest
from dposcope.data.comments import Comments
from dposcope.directions.direction import Direction
from dposcope.directions.features import residual_features
from dposcope.evaluation.scorer import Scorer
from dposcope.model.batches import encode
from dposcope.model.generate import Progress
from dposcope.model.language_model import LanguageModel

MAX_TOKENS = 128
"""A text's first tokens, as many as a direction is made from."""


def direction_scorer(
    lm: LanguageModel,
    direction: Direction,
    comments: Comments,
    *,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Scorer:
    """Probability that a text has the concept, by the projection of its mean residual stream on a direction alone.

    Logistic regression with balanced classes on one number a comment; it ranks as the projection does. No classifier
    and no list of words ranks texts then, only labelled comments and the model. The model must be the plain one
    whenever texts are scored: an edit along the direction would move its own measure. A text without a token of its
    own scores 0.

    Args:
        lm: the plain model.
        direction: its concept's side positive.
        comments: labelled; those that a judge is trained on must be others.
        batch_size: texts at a time.
        progress: called after each batch of comments.
    """
    along = _projections(lm, direction, comments.texts, batch_size, progress)
    # Unit variance, or the penalty would weigh projections of another scale otherwise.
    scale = float(along.std()) or 1.0
    fitted = LogisticRegression(class_weight="balanced").fit(along[:, None] / scale, comments.labels)
    slope = float(cast(NDArray[np.float64], fitted.coef_)[0, 0]) / scale
    intercept = float(fitted.intercept_[0])

    def score(texts: Sequence[str]) -> NDArray[np.float64]:
        special = lm.special_ids
        ids = encode(lm, texts, max_tokens=MAX_TOKENS, keep="start")
        own = [text for text, row in zip(texts, ids, strict=True) if not special.issuperset(row)]
        scores = np.zeros(len(texts))
        if own:
            along = _projections(lm, direction, own, batch_size)
            scores[[not special.issuperset(row) for row in ids]] = expit(slope * along + intercept)
        return scores

    vector = tensor_fingerprint({"W": direction.vector})
    digest = text_digest(lm.fingerprint, vector, repr(direction.block), repr((slope, intercept)))
    return Scorer(f"projection on the direction ({direction.kind})", digest, score)


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
