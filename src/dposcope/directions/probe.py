"""The paper's linear probe: logistic regression on averaged residual streams (paper 3.2, appendix D)."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dposcope.directions.direction import Direction
from dposcope.directions.features import residual_features
from dposcope.directions.provenance import check_classes, provenance
from dposcope.errors import DposcopeError
from dposcope.model.generate import Progress
from dposcope.model.language_model import LanguageModel
from dposcope.protocols import Protocol, check_protocol


@dataclass(frozen=True)
class ProbeQuality:
    """How well a probe tells the classes apart on texts it was not fitted on."""

    accuracy: float
    majority: float
    """Accuracy of always answering the larger class: what `accuracy` must be read against."""
    balanced_accuracy: float
    roc_auc: float
    test_texts: int
    strength: float
    """C, the inverse strength of the L2 penalty."""


_STRENGTHS = tuple(10.0**power for power in range(-5, 3))


def fit_probe(
    lm: LanguageModel,
    texts: Sequence[str],
    labels: Sequence[bool] | np.ndarray,
    *,
    block: int = -1,
    protocol: Protocol = "strict",
    test_share: float = 0.1,
    seed: int = 0,
    batch_size: int = 32,
    progress: Progress | None = None,
) -> Direction:
    """W of P(toxic | x̄) = σ(W·x̄ + b), in raw feature space.

    Strict: features standardised inside the fit and W mapped back; the strength of the L2 penalty chosen
    by 5-fold cross-validated ROC AUC. Reference: plain logistic regression, 500 iterations.
    `about["quality"]` holds a `ProbeQuality` as a dictionary, measured on the held-out share.

    Args:
        lm: the model.
        texts: comments of both classes (paper: 561,808 of Jigsaw).
        labels: True where toxic.
        block: the block at whose end the stream is read; −1 is the last.
        protocol: which features and fit.
        test_share: share held out, stratified (paper: 0.1).
        seed: of the split and the folds.
        batch_size: texts at a time.
        progress: called after each batch.

    Raises:
        DposcopeError: a class is missing or too small to split.
    """
    check_protocol(protocol)
    positive = check_classes(texts, labels)
    smallest = int(min(positive.sum(), (~positive).sum()))
    if smallest < 10:
        raise DposcopeError(f"a probe needs at least 10 texts of each class; the smaller has {smallest}")
    if not (smallest * test_share >= 1 and smallest * (1 - test_share) >= 5):
        raise DposcopeError(
            f"test_share {test_share} leaves too few of the {smallest} texts of the smaller class to test or to fit "
            "on; 0.1 is usual"
        )
    features = residual_features(lm, texts, block=block, protocol=protocol, batch_size=batch_size, progress=progress)
    x = features.vectors.numpy()
    fit, test = train_test_split(np.arange(len(positive)), test_size=test_share, stratify=positive, random_state=seed)
    x_fit, x_test, y_fit, y_test = x[fit], x[test], positive[fit], positive[test]
    if protocol == "strict":
        weight, intercept, strength = _fit_strict(x_fit, y_fit, seed)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the published 500 iterations may stop early
            model = LogisticRegression(max_iter=500).fit(x_fit, y_fit)
        weight, intercept, strength = model.coef_[0], float(model.intercept_[0]), 1.0
    score = x_test @ weight + intercept
    quality = ProbeQuality(
        accuracy=float(accuracy_score(y_test, score > 0)),
        majority=float(max(y_test.mean(), 1 - y_test.mean())),
        balanced_accuracy=float(balanced_accuracy_score(y_test, score > 0)),
        roc_auc=float(roc_auc_score(y_test, score)),
        test_texts=len(y_test),
        strength=strength,
    )
    about = provenance(lm, positive, protocol) | {
        "seed": seed,
        "intercept": intercept,
        "residual_norm": features.residual_norm,
        "quality": asdict(quality),
    }
    return Direction(torch.from_numpy(np.array(weight)), "probe", block, about)


def _fit_strict(x: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, float, float]:
    scaler = StandardScaler()
    search = GridSearchCV(
        make_pipeline(scaler, LogisticRegression(max_iter=2000)),
        {"logisticregression__C": _STRENGTHS},
        scoring="roc_auc",
        cv=StratifiedKFold(5, shuffle=True, random_state=seed),
    ).fit(x, y)
    best = search.best_estimator_
    fitted_scaler, model = best.named_steps["standardscaler"], best.named_steps["logisticregression"]
    # σ(w·(x−μ)/s + b) = σ((w/s)·x + b − w·μ/s): back to raw feature space.
    weight = model.coef_[0] / fitted_scaler.scale_
    intercept = float(model.intercept_[0] - weight @ fitted_scaler.mean_)
    return weight, intercept, float(search.best_params_["logisticregression__C"])
