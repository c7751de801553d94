"""The probe against scikit-learn by hand, and its quality recomputed from the split."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dposcope.directions.direction import Direction
from dposcope.directions.features import residual_features
from dposcope.directions.probe import fit_probe
from dposcope.errors import DposcopeError
from helpers.families import copied
from helpers.labelled import LABELS, TEXTS, split

STRENGTHS = [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2]


def pipeline(strength: float):
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))


@pytest.mark.parametrize("seed", [0, 7])
def test_strict_is_the_standardised_fit_mapped_back(family_lm, seed):
    lm = family_lm("gemma2")
    direction = fit_probe(lm, TEXTS, LABELS, seed=seed, test_share=0.25)
    x = residual_features(lm, TEXTS).vectors.numpy()
    fit, _ = split(seed, 0.25)
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    means = [cross_val_score(pipeline(c), x[fit], LABELS[fit], cv=folds, scoring="roc_auc").mean() for c in STRENGTHS]
    best = STRENGTHS[int(np.argmax(means))]
    assert direction.about["quality"]["strength"] == best
    assert len(set(means)) > 1, "every strength is as good: this tests nothing"
    expected = pipeline(best).fit(x[fit], LABELS[fit]).decision_function(x)
    score = x @ direction.vector.numpy() + direction.about["intercept"]
    assert np.allclose(score, expected, rtol=1e-6, atol=1e-6)
    assert np.abs(expected).max() > 1e-3


def test_strict_on_every_family(lm):
    direction = fit_probe(lm, TEXTS, LABELS)
    x = residual_features(lm, TEXTS).vectors.numpy()
    fit, _ = split()
    expected = pipeline(direction.about["quality"]["strength"]).fit(x[fit], LABELS[fit]).decision_function(x)
    score = x @ direction.vector.numpy() + direction.about["intercept"]
    assert np.allclose(score, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    assert direction.kind == "probe"


def test_reference_is_plain_logistic_regression_on_its_own_features(lm):
    direction = fit_probe(lm, TEXTS, LABELS, protocol="reference")
    x = residual_features(lm, TEXTS, protocol="reference").vectors.numpy()
    fit, _ = split()
    plain = LogisticRegression(max_iter=500).fit(x[fit], LABELS[fit])
    assert np.allclose(direction.vector.numpy(), plain.coef_[0], rtol=1e-10)
    assert direction.about["intercept"] == pytest.approx(float(plain.intercept_[0]), rel=1e-10)
    assert direction.about["quality"]["strength"] == 1.0
    assert direction.about["protocol"] == "reference"


@pytest.mark.parametrize("protocol", ["strict", "reference"])
@pytest.mark.parametrize(("seed", "share"), [(0, 0.1), (3, 0.4)])
def test_quality_is_that_of_the_held_out_texts(llama, protocol, seed, share):
    direction = fit_probe(llama, TEXTS, LABELS, protocol=protocol, seed=seed, test_share=share)
    quality = direction.about["quality"]
    x = residual_features(llama, TEXTS, protocol=protocol).vectors.numpy()
    _, test = split(seed, share)
    truth = LABELS[test]
    score = x[test] @ direction.vector.numpy() + direction.about["intercept"]
    said = score > 0
    hits, rejections = (said & truth).sum() / truth.sum(), (~said & ~truth).sum() / (~truth).sum()
    assert quality["test_texts"] == len(test) == round(share * len(TEXTS) + 0.499)
    assert quality["accuracy"] == pytest.approx((said == truth).mean())
    assert quality["majority"] == pytest.approx(max(truth.mean(), (~truth).mean()))
    assert quality["majority"] > 0.5
    assert quality["balanced_accuracy"] == pytest.approx((hits + rejections) / 2)
    pairs = [(a > b) + (a == b) / 2 for a in score[truth] for b in score[~truth]]
    assert quality["roc_auc"] == pytest.approx(np.mean(pairs))
    assert quality["roc_auc"] == pytest.approx(roc_auc_score(truth, score))


def test_the_majority_rate_is_that_of_the_larger_class_either_way(llama):
    quality = fit_probe(llama, TEXTS, LABELS, test_share=0.3).about["quality"]
    turned = fit_probe(llama, TEXTS, ~LABELS, test_share=0.3).about["quality"]
    assert quality["majority"] == turned["majority"] > 0.5


def test_the_probe_tells_held_out_texts_apart(llama):
    quality = fit_probe(llama, TEXTS, LABELS, test_share=0.3).about["quality"]
    assert quality["roc_auc"] > 0.9
    assert quality["accuracy"] > quality["majority"] + 0.1


def test_the_toxic_side_is_positive(lm):
    direction = fit_probe(lm, TEXTS, LABELS)
    projections = residual_features(lm, TEXTS).vectors @ direction.vector
    assert projections[torch.from_numpy(LABELS)].mean() > projections[torch.from_numpy(~LABELS)].mean()
    turned = fit_probe(lm, TEXTS, ~LABELS)
    assert direction.cosine(turned) < 0


def test_another_block(llama):
    direction = fit_probe(llama, TEXTS, LABELS, block=1)
    x = residual_features(llama, TEXTS, block=1).vectors.numpy()
    fit, _ = split()
    expected = pipeline(direction.about["quality"]["strength"]).fit(x[fit], LABELS[fit]).decision_function(x)
    assert np.allclose(x @ direction.vector.numpy() + direction.about["intercept"], expected, rtol=1e-5, atol=1e-5)
    assert direction.block == 1


def test_the_same_seed_gives_the_same_probe_and_it_can_be_saved(llama, tmp_path):
    first, second = (fit_probe(llama, TEXTS, LABELS, seed=2, test_share=0.3) for _ in range(2))
    assert torch.equal(first.vector, second.vector)
    assert first.about == second.about
    assert first.about["seed"] == 2
    other = fit_probe(llama, TEXTS, LABELS, seed=3, test_share=0.3)
    assert not torch.equal(first.vector, other.vector)
    first.save(tmp_path / "w")
    assert Direction.load(tmp_path / "w").about == first.about


def test_held_out_texts_do_not_reach_the_fit(llama):
    """Their labels may be anything: the fitted weights are the same."""
    _, test = split()
    x = residual_features(llama, TEXTS).vectors.numpy()
    fit = np.setdiff1d(np.arange(len(TEXTS)), test)
    direction = fit_probe(llama, TEXTS, LABELS)
    strength = direction.about["quality"]["strength"]
    alone = pipeline(strength).fit(x[fit], LABELS[fit])
    everything = pipeline(strength).fit(x, LABELS)
    weight = alone[1].coef_[0] / alone[0].scale_
    assert np.allclose(direction.vector.numpy(), weight, rtol=1e-4)
    assert not np.allclose(direction.vector.numpy(), everything[1].coef_[0] / everything[0].scale_, rtol=1e-3)


@pytest.mark.parametrize("smallest", [1, 9])
def test_a_small_class_is_refused(llama, smallest):
    texts = TEXTS[:smallest] + TEXTS[30:60]
    labels = [True] * smallest + [False] * 30
    with pytest.raises(DposcopeError, match=f"the smaller class has {smallest}"):
        fit_probe(llama, texts, labels)


@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_ten_of_each_class_are_enough(llama, protocol):
    texts, labels = TEXTS[:10] + TEXTS[30:40], [True] * 10 + [False] * 10
    quality = fit_probe(llama, texts, labels, protocol=protocol).about["quality"]
    assert quality["test_texts"] == 2
    assert quality["majority"] == 0.5


def test_one_class_is_refused(llama):
    with pytest.raises(DposcopeError, match="the texts are 0 with and 86 without"):
        fit_probe(llama, TEXTS, [False] * len(TEXTS))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, 0.99, 0.001])
def test_a_share_that_leaves_a_class_out_is_refused(llama, share):
    with pytest.raises(DposcopeError, match="share"):
        fit_probe(llama, TEXTS, LABELS, test_share=share)


def test_a_share_without_a_text_of_the_smaller_class_is_refused(llama):
    """Three texts to test on, all of the larger class: no ROC AUC is defined on them."""
    texts, labels = TEXTS[:10] + TEXTS[30:], [True] * 10 + [False] * 56
    with pytest.raises(DposcopeError, match="share"):
        fit_probe(llama, texts, labels, test_share=0.04)


def test_a_reference_fit_that_stops_early_is_no_alarm(llama):
    """The published 500 iterations need not converge on streams of large scale; that belongs to the protocol."""
    own = copied(llama)
    with torch.no_grad():
        own.final_norm.weight *= torch.logspace(-2, 5, 16)
    direction = fit_probe(own, TEXTS, LABELS, protocol="reference")
    assert direction.vector.isfinite().all()
