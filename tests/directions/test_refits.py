"""The direction fitted again against fits by hand on the same rows."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dposcope.directions.direction import Direction
from dposcope.directions.features import Features, residual_features
from dposcope.directions.means import mean_difference
from dposcope.directions.probe import fit_probe
from dposcope.directions.refits import Refits, refit, resample
from dposcope.errors import DposcopeError
from helpers.labelled import LABELS, TEXTS, split

SEEDS = [3, 8]


@pytest.fixture(scope="module")
def features() -> Features:
    from helpers.families import tiny

    return residual_features(tiny("llama"), TEXTS)


def test_a_resample_keeps_the_classes_and_repeats_rows():
    rows = np.arange(5, 80)
    drawn = resample(LABELS, rows, 1)
    assert len(drawn) == len(rows)
    assert LABELS[drawn].sum() == LABELS[rows].sum()
    assert set(drawn) < set(rows)
    assert (drawn == resample(LABELS, rows, 1)).all()
    assert (drawn != resample(LABELS, rows, 2)).any()


@pytest.mark.parametrize("bootstrap", [True, False])
def test_a_difference_of_means_is_that_of_the_drawn_comments(llama, features, bootstrap):
    direction = mean_difference(llama, TEXTS, LABELS, features=features)
    found = refit(direction, features.vectors, LABELS, seeds=SEEDS, bootstrap=bootstrap)
    assert found.reseeded.shape == (0, 16)
    assert len(found.resampled) == (2 if bootstrap else 0)
    for seed, vector in zip(SEEDS, found.resampled, strict=False):
        rows = resample(LABELS, np.arange(len(TEXTS)), seed)
        rude, civil = ([features.vectors[row] for row in rows if LABELS[row] == label] for label in (True, False))
        expected = sum(rude) / len(rude) - sum(civil) / len(civil)
        torch.testing.assert_close(vector, expected, rtol=1e-9, atol=1e-9)


def test_features_read_before_give_the_same_direction(llama, features):
    for fit in (mean_difference, fit_probe):
        one, other = fit(llama, TEXTS, LABELS), fit(llama, TEXTS, LABELS, features=features)
        assert torch.equal(one.vector, other.vector)
        assert one.about == other.about


@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_a_probe_is_fitted_on_drawn_rows_and_with_other_seeds(llama, protocol):
    direction = fit_probe(llama, TEXTS, LABELS, protocol=protocol, seed=1)
    read = residual_features(llama, TEXTS, protocol=protocol)
    calls = []
    found = refit(
        direction, read.vectors, LABELS, seeds=SEEDS, protocol=protocol, progress=lambda *now: calls.append(now)
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    x = read.vectors.numpy()
    for seed, resampled, reseeded in zip(SEEDS, found.resampled, found.reseeded, strict=True):
        fit, _ = split(1)
        rows = resample(LABELS, fit, seed)
        if protocol == "strict":
            c = direction.about["quality"]["strength"]
            made = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000)).fit(x[rows], LABELS[rows])
            expected = made[1].coef_[0] / made[0].scale_
        else:
            expected = LogisticRegression(max_iter=500).fit(x[rows], LABELS[rows]).coef_[0]
        np.testing.assert_allclose(resampled.numpy(), expected, rtol=1e-6)
        again = fit_probe(llama, TEXTS, LABELS, protocol=protocol, seed=seed, features=read)
        assert torch.equal(reseeded, again.vector)


def test_refits_come_back_as_they_were(tmp_path):
    made = Refits(torch.arange(6.0, dtype=torch.float64).view(2, 3), torch.empty(0, 3, dtype=torch.float64))
    made.save(tmp_path / "refits")
    again = Refits.load(tmp_path / "refits")
    assert torch.equal(again.resampled, made.resampled)
    assert again.reseeded.shape == (0, 3)


def test_what_has_no_comments_is_refused(features):
    with pytest.raises(DposcopeError, match="'token_contrast' is not fitted on comments"):
        refit(Direction(torch.ones(16), "token_contrast", -1), features.vectors, LABELS, seeds=SEEDS)
