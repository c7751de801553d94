"""Difference of means: the simplest direction."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dposcope.data.texts import listed
from dposcope.directions.direction import Direction
from dposcope.directions.features import Features, check_features, residual_features
from dposcope.directions.provenance import check_classes, provenance
from dposcope.model.checks.given import check_lm
from dposcope.model.generate import Progress
from dposcope.model.language_model import LanguageModel
from dposcope.protocols import Protocol


def mean_difference(
    lm: LanguageModel,
    texts: Sequence[str],
    labels: Sequence[bool] | np.ndarray,
    *,
    block: int = -1,
    protocol: Protocol = "strict",
    batch_size: int | None = None,
    progress: Progress | None = None,
    features: Features | None = None,
) -> Direction:
    """Mean feature of the texts with the concept minus mean feature of the others.

    Args:
        lm: the model.
        texts: comments of both classes.
        labels: True where a text has the concept (toxicity).
        block: the block at whose end the stream is read; −1 is the last.
        protocol: protocol of the features, see `residual_features`.
        batch_size: texts at a time.
        progress: called after each batch.
        features: features of these texts, if they were computed before with the same block and protocol.

    Raises:
        DposcopeError: a class is missing.
    """
    check_lm(lm)
    texts = listed("texts", texts)
    positive = check_classes(texts, labels)
    if features is not None:
        check_features(features, len(texts))
    features = features or residual_features(
        lm, texts, block=block, protocol=protocol, batch_size=batch_size, progress=progress
    )
    about = provenance(lm, positive, protocol) | {"residual_norm": features.residual_norm}
    return Direction(class_difference(features.vectors, positive), "mean_difference", block, about)


def class_difference(vectors: Tensor, positive: np.ndarray) -> Tensor:
    """Mean of the positive rows minus mean of the others, `[d]`.

    Args:
        vectors: one row per text, `[texts, d]`.
        positive: True for positive rows, `[texts]`, bool.
    """
    chosen = torch.from_numpy(positive)
    return vectors[chosen].mean(0) - vectors[~chosen].mean(0)
