"""A scorer from the model itself: the projection of a text's residual stream on a direction."""

from collections.abc import Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from dposcope.artefacts import tensor_fingerprint, text_digest
from dposcope.data.comments import Comments, check_comments
from dposcope.directions.direction import Direction, as_direction
from dposcope.directions.features import residual_features
from dposcope.evaluation.scorer import Scorer
from dposcope.model.batches import encode
from dposcope.model.generate import Progress
from dposcope.model.language_model import LanguageModel

MAX_TOKENS = 128
"""Number of first tokens of a text that are read; the same as for making a direction."""


def direction_scorer(
    lm: LanguageModel,
    direction: Direction | Tensor,
    comments: Comments,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Scorer:
    """Probability that a text has the concept, given the projection of its mean residual stream on a direction.

    A logistic regression with balanced classes on one number per comment, so it ranks texts as the projection does. It
    needs only labelled comments and the model, no classifier and no list of words. No edit may be on the model while
    it scores texts, since an edit along the direction would change the score itself. A text that has only special
    tokens scores 0.

    Args:
        lm: the plain model.
        direction: pointing towards the concept; a vector `[d]` is read at the last block.
        comments: labelled; a judge must be trained on other comments.
        batch_size: texts at a time.
        progress: called after each batch of comments.

    Raises:
        DposcopeError: the direction does not fit the model.
    """
    direction = as_direction(direction, lm)
    check_comments(comments)
    along = _projections(lm, direction, comments.texts, batch_size, progress)
    # Scale to unit variance, so that the penalty does not depend on the scale of projections.
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
    batch_size: int | None,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """x·W/|W| of each text's mean residual stream, `[n]`."""
    features = residual_features(
        lm, texts, block=direction.block, max_tokens=MAX_TOKENS, batch_size=batch_size, progress=progress
    )
    return (features.vectors @ direction.unit).numpy()
