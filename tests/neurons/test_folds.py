"""Means by folds of prompts: the whole to the bit, each fold as if it stood alone, and their sum."""

from dataclasses import replace

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.neurons.activations import collect_means
from dposcope.neurons.folds import FoldedMeans, collect_by_fold, folded_files, joined, pooled
from helpers.families import TEXTS, assert_close

NEW = 5
ROUNDING = 5e-6
"""Of float32, as in test_activations: batches of other texts are padded otherwise."""


@pytest.mark.parametrize("protocol", ["strict", "reference"])
@pytest.mark.parametrize("folds", [2, 3])
def test_folds_are_means_over_their_prompts(lm, protocol, folds):
    how = {"new_tokens": NEW, "protocol": protocol, "batch_size": 3}
    found = collect_by_fold(lm, TEXTS, folds, **how)
    whole = collect_means(lm, TEXTS, **how)
    assert torch.equal(found.whole.mean, whole.mean)
    assert torch.equal(found.whole.second_moment, whole.second_moment)
    assert (found.whole.count, found.whole.about) == (whole.count, whole.about)
    assert len(found.folds) == folds
    for number, means in enumerate(found.folds):
        prompts = TEXTS[number::folds]
        alone = collect_means(lm, prompts, **how)
        assert means.count == alone.count
        assert_close(means.mean, alone.mean, ROUNDING)
        assert_close(means.second_moment, alone.second_moment, 10 * ROUNDING)
        assert means.about == {**alone.about, "fold": number + 1, "folds": folds}


def test_folds_add_up_to_the_whole(llama):
    found = collect_by_fold(llama, TEXTS, 3, new_tokens=NEW)
    count = sum(means.count for means in found.folds)
    assert count == found.whole.count
    for moment in ("mean", "second_moment"):
        total = sum(means.count * getattr(means, moment) for means in found.folds)
        torch.testing.assert_close(total / count, getattr(found.whole, moment), rtol=1e-12, atol=1e-12)


def test_no_fold_is_no_fold(llama):
    found = collect_by_fold(llama, TEXTS, 0, new_tokens=NEW)
    assert found.folds == ()
    assert torch.equal(found.whole.mean, collect_means(llama, TEXTS, new_tokens=NEW).mean)


def test_folds_come_back_as_they_were(llama, tmp_path):
    found = collect_by_fold(llama, TEXTS, 2, new_tokens=2)
    found.save(tmp_path / "means")
    assert sorted(tmp_path.iterdir()) == sorted(folded_files(tmp_path / "means", 2))
    again = FoldedMeans.load(tmp_path / "means", 2)
    for one, other in zip([found.whole, *found.folds], [again.whole, *again.folds], strict=True):
        assert torch.equal(one.mean, other.mean)
        assert torch.equal(one.second_moment, other.second_moment)
        assert (one.count, one.about) == (other.count, other.about)


@pytest.mark.parametrize(
    ("folds", "words"), [(1, "1 folds cannot be compared"), (-2, "-2 folds"), (9, "8 prompts cannot make 9 folds")]
)
def test_folds_that_cannot_be_are_refused(llama, folds, words):
    with pytest.raises(DposcopeError, match=words):
        collect_by_fold(llama, TEXTS, folds)


@pytest.mark.parametrize("protocol", ["strict", "reference"])
def test_parts_pool_to_fewer_folds(llama, protocol):
    how = {"new_tokens": NEW, "protocol": protocol, "batch_size": 3}
    parts = collect_by_fold(llama, TEXTS[:4], 4, **how).folds
    halves = collect_by_fold(llama, TEXTS[:4], 2, **how).folds
    for one, other in zip(pooled(parts, 2), halves, strict=True):
        torch.testing.assert_close(one.mean, other.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(one.second_moment, other.second_moment, rtol=1e-12, atol=1e-12)
        assert (one.count, one.about) == (other.count, other.about)
    assert pooled(parts, 4) == parts
    (whole,) = pooled(parts, 1)
    assert whole.count == sum(part.count for part in parts)
    assert whole.about["prompts"] == 4


def test_one_part_joins_to_itself(llama):
    (part, _) = collect_by_fold(llama, TEXTS[:2], 2, new_tokens=NEW).folds
    alone = joined([replace(part, about={})], {"mine": 1})
    assert torch.equal(alone.mean, part.mean)
    assert torch.equal(alone.second_moment, part.second_moment)
    assert (alone.count, alone.about) == (part.count, {"prompts": 0, "mine": 1})


def test_folds_must_divide_the_parts(llama):
    parts = collect_by_fold(llama, TEXTS[:4], 4, new_tokens=2).folds
    for folds in (0, 3):
        with pytest.raises(DposcopeError, match="divisor"):
            pooled(parts, folds)
