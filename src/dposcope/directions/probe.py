"""The paper's linear probe: logistic regression on averaged residual streams (paper 3.2, appendix D)."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dposcope.data.given.numbers import number, seed_of
from dposcope.data.texts import listed
from dposcope.directions.direction import Direction
from dposcope.directions.features import Features, check_features, residual_features
from dposcope.directions.provenance import check_classes, provenance
from dposcope.errors import DposcopeError
from dposcope.model.checks.given import check_lm
from dposcope.model.generate import Progress
from dposcope.model.language_model import LanguageModel
from dposcope.protocols import Protocol, check_protocol


@dataclass(frozen=True)
class ProbeQuality:
    """Quality of a probe on held-out texts."""

    accuracy: float
    majority: float
    """Accuracy of always answering the larger class: the baseline for `accuracy`."""
    balanced_accuracy: float
    roc_auc: float
    test_texts: int
    strength: float
    """C, the inverse strength of the L2 penalty."""


SMALLEST_CLASS = 10
"""Fewest texts of each class for a probe."""

TEST_SHARE = 0.1
"""Held-out share of the texts (paper: 0.1)."""

_STRENGTHS = tuple(10.0**power for power in range(-5, 3))


def fit_probe(
    lm: LanguageModel,
    texts: Sequence[str],
    labels: Sequence[bool] | np.ndarray,
    *,
    block: int = -1,
    protocol: Protocol = "strict",
    test_share: float = TEST_SHARE,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
    features: Features | None = None,
) -> Direction:
    """W of P(toxic | x̄) = σ(W·x̄ + b), in the space of raw features.

    Strict protocol: features are standardised for the fit, and W is mapped back. The strength of the L2 penalty is
    chosen by 5-fold cross-validated ROC AUC. Reference protocol: logistic regression without standardisation, 500
    iterations. `about["quality"]` holds a `ProbeQuality` as a dictionary, measured on the held-out share.

    Args:
        lm: the model.
        texts: comments of both classes (paper: 561,808 of Jigsaw).
        labels: True where toxic.
        block: the block at whose end the stream is read; −1 is the last.
        protocol: protocol of features and fit.
        test_share: held-out share, stratified (paper: 0.1).
        seed: seed of the split and the folds.
        batch_size: texts at a time.
        progress: called after each batch.
        features: features of these texts, if they were computed before with the same block and protocol.

    Raises:
        DposcopeError: a class is missing or too small to split.
    """
    check_protocol(protocol)
    check_lm(lm)
    texts = listed("texts", texts)
    positive = check_classes(texts, labels)
    test_share, seed = number("test_share", test_share), seed_of(seed)
    smallest = int(min(positive.sum(), (~positive).sum()))
    if smallest < SMALLEST_CLASS:
        raise DposcopeError(
            f"the smaller class has {smallest} texts; a probe needs at least {SMALLEST_CLASS} of each class"
        )
    if not (smallest * test_share >= 1 and smallest * (1 - test_share) >= 5):
        raise DposcopeError(
            f"test_share {test_share} leaves too few of the {smallest} texts of the smaller class to test or to "
            f"fit on; "
            "give about 0.1"
        )
    if features is not None:
        check_features(features, len(texts))
    features = features or residual_features(
        lm, texts, block=block, protocol=protocol, batch_size=batch_size, progress=progress
    )
    x = features.vectors.numpy()
    split = split_rows(positive, test_share=test_share, seed=seed)
    y_test = positive[split.test]
    fitted = fit_rows(x[split.fit], positive[split.fit], protocol=protocol, seed=seed)
    score = x[split.test] @ fitted.weight + fitted.intercept
    quality = ProbeQuality(
        accuracy=float(accuracy_score(y_test, score > 0)),
        majority=float(max(y_test.mean(), 1 - y_test.mean())),
        balanced_accuracy=float(balanced_accuracy_score(y_test, score > 0)),
        roc_auc=float(roc_auc_score(y_test, score)),
        test_texts=len(y_test),
        strength=fitted.strength,
    )
    about = provenance(lm, positive, protocol) | {
        "seed": seed,
        "intercept": fitted.intercept,
        "residual_norm": features.residual_norm,
        "quality": asdict(quality),
    }
    return Direction(torch.from_numpy(np.array(fitted.weight)), "probe", block, about)


@dataclass(frozen=True, eq=False)
class Fit:
    """A logistic regression in the space of raw features."""

    weight: NDArray[np.float64]
    """W, `[d]`."""
    intercept: float
    """b."""
    strength: float
    """C."""


@dataclass(frozen=True, eq=False)
class Split:
    """Disjoint rows of texts."""

    fit: NDArray[np.intp]
    """Rows to fit on."""
    test: NDArray[np.intp]
    """Held-out rows."""


def split_rows(positive: np.ndarray, *, test_share: float, seed: int) -> Split:
    """Rows to fit on and held-out rows, stratified by class."""
    fit, test = train_test_split(np.arange(len(positive)), test_size=test_share, stratify=positive, random_state=seed)
    return Split(np.asarray(fit, np.intp), np.asarray(test, np.intp))


def fit_rows(x: np.ndarray, y: np.ndarray, *, protocol: Protocol, seed: int, strength: float | None = None) -> Fit:
    """The fit of `fit_probe`, on given features.

    Args:
        x: features, `[n, d]`, float64.
        y: True where toxic, `[n]`.
        protocol: protocol of the fit.
        seed: seed of the folds that choose C.
        strength: C, if it was chosen before (strict protocol only; the reference protocol has 1).
    """
    if protocol == "reference":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 500 iterations, as published, may not converge
            model = LogisticRegression(max_iter=500).fit(x, y)
        return Fit(model.coef_[0], float(model.intercept_[0]), 1.0)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    # The same parameters in every fit: of a few texts, checking them takes a third of the time.
    with config_context(skip_parameter_validation=True):
        if strength is None:
            search = GridSearchCV(
                pipeline,
                {"logisticregression__C": _STRENGTHS},
                scoring="roc_auc",
                cv=StratifiedKFold(5, shuffle=True, random_state=seed),
            ).fit(x, y)
            pipeline, strength = search.best_estimator_, float(search.best_params_["logisticregression__C"])
        else:
            pipeline.set_params(logisticregression__C=strength).fit(x, y)
    scaler, model = pipeline.named_steps["standardscaler"], pipeline.named_steps["logisticregression"]
    # σ(w·(x−μ)/s + b) = σ((w/s)·x + b − w·μ/s): back to raw feature space.
    weight = model.coef_[0] / scaler.scale_
    return Fit(weight, float(model.intercept_[0] - weight @ scaler.mean_), strength)
