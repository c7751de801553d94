"""Difference of means against two loops."""

import math

import numpy as np
import pytest
import torch

from dposcope.directions.means import mean_difference
from dposcope.errors import DposcopeError
from helpers.families import CIVIL, RUDE, assert_close
from helpers.naive_features import naive_reference, naive_strict

TEXTS = [RUDE[0], *CIVIL[:4], *RUDE[1:4]]
LABELS = [True, False, False, False, False, True, True, True]


def naive(lm, feature) -> torch.Tensor:
    rude = torch.stack([feature(lm, text) for text, label in zip(TEXTS, LABELS, strict=True) if label])
    civil = torch.stack([feature(lm, text) for text, label in zip(TEXTS, LABELS, strict=True) if not label])
    return rude.mean(0) - civil.mean(0)


def test_strict_is_the_difference_of_class_means_at_every_block(lm):
    for block in range(-1, lm.n_blocks):
        direction = mean_difference(lm, TEXTS, LABELS, block=block, batch_size=3)
        expected = naive(lm, lambda lm, text, block=block: naive_strict(lm, text, block).mean(0))
        assert_close(direction.vector, expected, 5e-6)
        assert direction.block == block
        assert direction.kind == "mean_difference"


def test_reference_is_the_difference_of_its_features(lm):
    direction = mean_difference(lm, TEXTS, LABELS, protocol="reference")
    assert_close(direction.vector, naive(lm, lambda lm, text: naive_reference(lm, text).mean(0)), 2e-5)
    assert direction.about["protocol"] == "reference"


def test_what_it_was_made_from_is_written_down(gemma2):
    about = mean_difference(gemma2, TEXTS, [*LABELS[:-1], False]).about
    assert about["model"] == "tiny-gemma2"
    assert about["fingerprint"] == gemma2.fingerprint
    assert about["dtype"] == "float32"
    assert about["protocol"] == "strict"
    assert (about["texts_with"], about["texts_without"]) == (3, 5)
    rows = torch.cat([naive_strict(gemma2, text, -1) for text in TEXTS])
    assert about["residual_norm"] == pytest.approx(rows.norm(dim=1).mean().item(), rel=1e-5)


def test_turning_the_labels_turns_the_direction(llama):
    forward = mean_difference(llama, TEXTS, LABELS)
    backward = mean_difference(llama, TEXTS, [not label for label in LABELS])
    assert torch.allclose(forward.vector, -backward.vector, rtol=1e-12)


@pytest.mark.parametrize("form", [list, np.array, lambda labels: np.array(labels, dtype=int)])
def test_labels_may_be_lists_or_arrays(llama, form):
    expected = mean_difference(llama, TEXTS, LABELS).vector
    assert torch.equal(mean_difference(llama, TEXTS, form(LABELS)).vector, expected)


@pytest.mark.parametrize(("label", "counts"), [(True, "8 with and 0 without"), (False, "0 with and 8 without")])
def test_one_class_is_refused(llama, label, counts):
    with pytest.raises(DposcopeError, match=f"the texts are {counts} the concept; give texts of both"):
        mean_difference(llama, TEXTS, [label] * 8)


def test_labels_that_do_not_fit_are_refused(llama):
    with pytest.raises(DposcopeError, match=r"8 texts but labels of shape \[7\]; give one label per text"):
        mean_difference(llama, TEXTS, LABELS[:-1])


def test_no_texts_are_refused(llama):
    with pytest.raises(DposcopeError, match="the texts are 0 with and 0 without"):
        mean_difference(llama, [], [])


def test_classes_with_the_same_texts_are_refused(llama):
    with pytest.raises(DposcopeError, match="norm zero; are the two classes of texts the same"):
        mean_difference(llama, ["kind words", "kind words"], [True, False], batch_size=1)


@pytest.mark.parametrize("label", [0.3, math.nan, -1, 2, "0", None])
def test_a_label_that_is_neither_true_nor_false_is_refused(llama, label):
    with pytest.raises(DposcopeError, match=f"a label is {label!r}, neither True nor False"):
        mean_difference(llama, TEXTS, [*map(int, LABELS[:-1]), label] if label != "0" else ["0"] * 8)


def test_labels_may_be_whole_floats(llama):
    expected = mean_difference(llama, TEXTS, LABELS).vector
    assert torch.equal(mean_difference(llama, TEXTS, np.array(LABELS, dtype=float)).vector, expected)
