"""The strength of a probe's penalty, and the area under the ROC curve, are scikit-learn's to the bit."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dposcope.directions.strength import area, best_strength

STRENGTHS = [1e-5, 1e-3, 1e-1, 1.0, 1e2]


@pytest.mark.parametrize("levels", [1, 2, 5, 1000], ids="of {} levels".format)
def test_the_area_is_to_the_bit(levels):
    draw = np.random.default_rng(levels)
    for n in (2, 3, 10, 101):
        for _ in range(25):
            y = draw.random(n) < 0.4
            y[:2] = True, False
            scores = draw.integers(levels, size=n) / 7 + (draw.random(n) if levels == 1000 else 0)
            assert area(y, scores) == roc_auc_score(y, scores)


@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_that_of_a_grid_search(seed):
    """Of rounded features too, where strengths tie and the first of them is taken."""
    draw = np.random.default_rng(seed)
    y = draw.random(60) < 0.4
    x = draw.normal(size=(60, 12)) + 0.5 * y[:, None]
    x = np.round(x) if seed % 2 else x
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        {"logisticregression__C": STRENGTHS},
        scoring="roc_auc",
        cv=StratifiedKFold(5, shuffle=True, random_state=seed),
    ).fit(x, y)
    found = best_strength(x, y, STRENGTHS, iterations=2000, seed=seed)
    assert found == search.best_params_["logisticregression__C"]
    assert len(set(search.cv_results_["mean_test_score"])) > 1


def test_the_first_of_equal_strengths_is_taken():
    y = np.arange(40) % 2 == 0
    x = np.where(y, 1.0, -1.0)[:, None] * np.ones((40, 3)) + 0.01 * np.random.default_rng(0).normal(size=(40, 3))
    assert best_strength(x, y, [0.1, 1.0, 0.01], iterations=2000, seed=0) == 0.1
