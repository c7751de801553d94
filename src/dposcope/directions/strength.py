"""The strength of a probe's penalty, chosen by cross-validation.

As scikit-learn's `GridSearchCV` chooses it, to the bit, in a third to a half of its time: rows are standardised once a
fold and not once a fold and strength, and areas are computed without its checks of shapes and types.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

FOLDS = 5


def best_strength(
    x: NDArray[np.float64], y: NDArray[np.bool_], strengths: Sequence[float], *, iterations: int, seed: int
) -> float:
    """The C of the largest mean area under the ROC curve over five stratified folds; the first of equal ones.

    Args:
        x: features, `[n, d]`, standardised here with the mean and scale of each fold's fitted rows.
        y: the class, `[n]`; at least five of each.
        strengths: the values of C to choose from.
        iterations: most steps of a fit.
        seed: of the folds.
    """
    areas = np.empty((len(strengths), FOLDS))
    with config_context(skip_parameter_validation=True):
        for fold, (fit, test) in enumerate(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(x, y)):
            scaler = StandardScaler()
            fitted, held_out = scaler.fit_transform(x[fit]), scaler.transform(x[test])
            for row, strength in enumerate(strengths):
                model = LogisticRegression(C=strength, max_iter=iterations).fit(fitted, y[fit])
                areas[row, fold] = area(y[test], model.decision_function(held_out))
    return float(strengths[int(areas.mean(axis=1).argmax())])


def area(y: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Area under the ROC curve, to the bit that of scikit-learn's `roc_auc_score`.

    Args:
        y: the class, `[n]`; at least one of each.
        scores: larger for True, `[n]`, finite.
    """
    order = np.argsort(scores, kind="stable")[::-1]
    scores, y = scores[order], y[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(y) - 1)  # of each run of equal scores
    true = np.cumsum(y, dtype=np.float64)[last]
    false = 1.0 + last - true
    if len(last) > 2:  # points within a straight line change nothing but the rounding
        corner = np.concatenate([[True], (np.diff(false, 2) != 0) | (np.diff(true, 2) != 0), [True]])
        true, false = true[corner], false[corner]
    true, false = np.append(0.0, true), np.append(0.0, false)
    return float(np.trapezoid(true / true[-1], false / false[-1]))
