"""The value vectors of highest cosine, against a sorted list."""

import pytest
import torch

from dposcope.errors import DposcopeError
from dposcope.neurons.aligned import most_aligned
from dposcope.neurons.sets import NeuronSet
from helpers.families import copied, naive_vectors, random_direction
from helpers.naive import ranked_naively


def test_one_is_enough(llama):
    W = random_direction(llama)
    assert most_aligned(llama, W, 1).cosine.tolist() == most_aligned(llama, W, 2).cosine.tolist()[:1]


@pytest.mark.parametrize("sign", [1, -1])
def test_they_are_the_first_of_a_sorted_list(lm, sign):
    W = sign * 50 * random_direction(lm)
    aligned = most_aligned(lm, W, 9)
    expected = ranked_naively(lm, W)[:9]
    assert len(aligned) == 9
    assert list(zip(aligned.block.tolist(), aligned.index.tolist(), strict=True)) == [row[1:] for row in expected]
    assert aligned.cosine.tolist() == pytest.approx([row[0] for row in expected], rel=1e-11)
    assert aligned.vectors.dtype == torch.float64
    for row, (_, block, i) in zip(aligned.vectors, expected, strict=True):
        assert torch.equal(row, naive_vectors(lm, block)[i])


def test_vectors_of_a_half_precision_model_are_exact(llama):
    lm = copied(llama)
    lm.model.to(torch.bfloat16)
    aligned = most_aligned(lm, random_direction(lm), 5)
    for row, block, i in zip(aligned.vectors, aligned.block.tolist(), aligned.index.tolist(), strict=True):
        assert torch.equal(row, lm.value_vectors(block)[i].double())


def test_all_neurons_can_be_ranked_and_ties_go_to_the_lower_block_then_index(llama):
    lm = copied(llama)
    with torch.no_grad():
        for block, i in ((2, 1), (0, 7), (0, 3), (1, 20)):
            lm.value_vectors(block)[i] = 0
    aligned = most_aligned(lm, random_direction(lm), lm.n_neurons)
    places = list(zip(aligned.block.tolist(), aligned.index.tolist(), strict=True))
    assert len(set(places)) == lm.n_neurons
    assert [place for place, cos in zip(places, aligned.cosine.tolist(), strict=True) if cos == 0] == [
        (0, 3),
        (0, 7),
        (1, 20),
        (2, 1),
    ]
    assert (aligned.cosine.diff() <= 0).all()


def test_chosen_neurons_are_a_set(llama):
    aligned = most_aligned(llama, random_direction(llama), 6)
    which = torch.tensor([True, False, False, True, False, True])
    mask = torch.zeros(llama.n_blocks, llama.d_mlp, dtype=torch.bool)
    for place in (0, 3, 5):
        mask[aligned.block[place], aligned.index[place]] = True
    assert aligned.chosen(which) == NeuronSet(mask)
    assert len(aligned.chosen(torch.zeros(6, dtype=torch.bool))) == 0


def test_n_out_of_range_is_refused(llama):
    for n in (0, -1, 73):
        with pytest.raises(DposcopeError, match=f"cannot take the top {n} of 72 neurons; ask for at least 1"):
            most_aligned(llama, random_direction(llama), n)


def test_a_direction_that_does_not_fit_is_refused(llama):
    with pytest.raises(DposcopeError, match=r"the direction has shape \[5\]"):
        most_aligned(llama, torch.ones(5), 3)
