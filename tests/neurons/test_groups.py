"""Cosines, projections, the four groups and selections against loops over single neurons."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from dposcope.errors import DposcopeError
from dposcope.neurons.groups import Group, cosines, group_sets, projections, select_fraction
from helpers.families import copied, naive_vectors, random_direction

RANKINGS = ["cosine", "signed", "activation", "reference"]


# Cosines and projections


def test_cosines_and_projections_are_those_of_the_formula(lm):
    W = 1e4 * random_direction(lm)
    cosine, projection = cosines(lm, W), projections(lm, W)
    assert cosine.shape == projection.shape == (lm.n_blocks, lm.d_mlp)
    assert cosine.dtype == projection.dtype == torch.float64
    w = W.numpy()
    for block in range(lm.n_blocks):
        vectors = naive_vectors(lm, block).numpy()
        for i, v in enumerate(vectors):
            assert projection[block, i].item() == pytest.approx(v @ w / np.linalg.norm(w), rel=1e-11, abs=1e-13)
            expected = v @ w / (np.linalg.norm(v) * np.linalg.norm(w))
            assert cosine[block, i].item() == pytest.approx(expected, rel=1e-11, abs=1e-13)


def test_a_value_vector_has_cosine_one_with_itself(lm):
    own = lm.value_vectors(1)[3].detach()
    assert cosines(lm, own)[1, 3].item() == pytest.approx(1, abs=1e-12)
    assert cosines(lm, -own.half().float())[1, 3].item() == pytest.approx(-1, abs=1e-6)


def test_half_precision_models_give_the_exact_values_of_their_weights(llama):
    lm = copied(llama)
    lm.model.to(torch.bfloat16)
    W = random_direction(lm)
    exact = copied(lm)
    exact.model.double()
    assert torch.equal(cosines(lm, W), cosines(exact, W))
    assert torch.equal(projections(lm, W), projections(exact, W))


def test_a_zero_value_vector_has_cosine_zero_and_a_tiny_one_its_own(llama):
    lm = copied(llama)
    direction = random_direction(lm)
    with torch.no_grad():
        lm.value_vectors(0)[4] = 0
        lm.value_vectors(0)[5] = 1e-30 * direction.float()
    cosine = cosines(lm, direction)
    assert cosine[0, 4] == 0
    assert cosine[0, 5].item() == pytest.approx(1, abs=1e-6)
    assert cosine.isfinite().all()


@pytest.mark.parametrize("measure", [cosines, projections])
def test_directions_that_do_not_fit_are_refused(llama, measure):
    with pytest.raises(
        DposcopeError, match=r"shape \[5\], the model's residual stream \[16\]; make the direction from"
    ):
        measure(llama, torch.ones(5))
    for bad in (torch.zeros(16), torch.full((16,), float("nan"))):
        with pytest.raises(DposcopeError, match=r"norm zero|NaN or infinite"):
            measure(llama, bad)


# Groups


def grid(seed, blocks=4, width=60, zeros=True):
    stream = torch.Generator().manual_seed(seed)
    cosine = torch.rand(blocks, width, generator=stream, dtype=torch.float64) * 2 - 1
    mean = torch.randn(blocks, width, generator=stream, dtype=torch.float64)
    if zeros:
        cosine[0, :3] = 0
        mean[0, 2:6] = 0
    return cosine, mean


def group_of(cos, m):
    if cos == 0 or m == 0:
        return None
    return ("T" if cos > 0 else "A") + ("P" if m > 0 else "N")


def test_groups_by_the_signs_of_cosine_and_mean():
    cosine, mean = grid(0)
    sets = group_sets(cosine, mean)
    assert list(sets) == list(Group)
    for block in range(4):
        for i in range(60):
            inside = [group.value for group, neurons in sets.items() if neurons.mask[block, i]]
            expected = group_of(cosine[block, i], mean[block, i])
            assert inside == ([expected] if expected else [])


# Selections, naive: a sorted list of (block, neuron)


def chosen_naively(cosine, mean, beta, ranking, percentile):
    limit = np.inf if percentile is None else np.percentile(mean.numpy(), percentile)
    result = {}
    for group in ("TP", "TN", "AP", "AN"):
        candidates = [
            (block, i)
            for block in range(cosine.shape[0])
            for i in range(cosine.shape[1])
            if group_of(cosine[block, i], mean[block, i]) == group and mean[block, i].item() <= limit
        ]
        keys = {
            "cosine": lambda p: -abs(cosine[p].item()),
            "signed": lambda p: -cosine[p].item(),
            "activation": lambda p: abs(mean[p].item()),
            "reference": lambda p, group=group: abs(cosine[p].item()) * (-1 if group in ("TP", "AN") else 1),
        }
        candidates.sort(key=keys[ranking])
        result[group] = (set(candidates[: math.floor(beta * len(candidates) + 1e-9)]), len(candidates))
    return result


def as_pairs(neurons):
    return {tuple(pair) for pair in neurons.mask.nonzero().tolist()}


@pytest.mark.parametrize("percentile", [None, 80, 37.5, 0, 100])
@pytest.mark.parametrize("beta", [0.0, 0.05, 0.55, 1.0])
@pytest.mark.parametrize("ranking", RANKINGS)
def test_selections_are_those_of_a_sorted_list(ranking, beta, percentile):
    cosine, mean = grid(1)
    selection = select_fraction(cosine, mean, beta=beta, ranking=ranking, trim_percentile=percentile)
    expected = chosen_naively(cosine, mean, beta, ranking, percentile)
    for group in Group:
        assert as_pairs(selection.sets[group]) == expected[group.value][0], group
        assert selection.sizes[group] == expected[group.value][1]


def test_ties_go_to_the_lower_block_then_index():
    cosine = torch.full((2, 3), 0.5, dtype=torch.float64)
    selection = select_fraction(cosine, torch.ones(2, 3), beta=0.67)
    assert as_pairs(selection.sets[Group.TP]) == {(0, 0), (0, 1), (0, 2), (1, 0)}


@given(st.floats(0, 1), st.integers(0, 500), st.sampled_from(RANKINGS), st.sampled_from([None, 80]))
def test_sizes_are_the_fraction_rounded_down(beta, seed, ranking, percentile):
    cosine, mean = grid(seed, 2, 30)
    selection = select_fraction(cosine, mean, beta=beta, ranking=ranking, trim_percentile=percentile)
    for group, neurons in selection.sets.items():
        size = selection.sizes[group]
        assert beta * size - 1 < len(neurons) <= beta * size + 1e-6
        whole = group_sets(cosine, mean)[group]
        assert len(neurons - whole) == 0


@given(st.integers(1, 2000), st.integers(0, 100))
@example(100, 29)
@example(100, 57)
def test_a_whole_number_of_neurons_is_not_lost_to_rounding(size, hundredths):
    """0.29 · 100 is 28.999999999999996 in floating point; 29 are meant."""
    cosine = torch.full((1, size), 0.5, dtype=torch.float64)
    selection = select_fraction(cosine, torch.ones(1, size), beta=hundredths / 100)
    assert len(selection.sets[Group.TP]) == size * hundredths // 100


@given(st.integers(0, 500), st.floats(0, 100))
def test_the_trim_is_numpys_percentile(seed, percentile):
    cosine, mean = grid(seed, 2, 17, zeros=False)
    limit = np.percentile(mean.numpy(), percentile)
    # A value within rounding of the limit may fall on either side.
    mean = mean.where((mean - limit).abs() > 1e-12, limit)
    limit = np.percentile(mean.numpy(), percentile)
    selection = select_fraction(cosine, mean, beta=1.0, trim_percentile=percentile)
    kept = sum(selection.sizes.values())
    below, at = int((mean < limit - 1e-12).sum()), int(((mean - limit).abs() <= 1e-12).sum())
    assert below <= kept <= below + at


def test_trimming_at_one_hundred_keeps_everything():
    cosine, mean = grid(3, zeros=False)
    selection = select_fraction(cosine, mean, beta=1.0, trim_percentile=100)
    assert sum(selection.sizes.values()) == mean.numel()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": -0.1}, r"beta -0\.1 is outside \[0, 1\]; it is the fraction"),
        ({"beta": 1.1}, r"beta 1\.1 is outside"),
        ({"beta": float("nan")}, "beta nan is outside"),
        ({"beta": 0.5, "ranking": "cos"}, "no ranking 'cos'; choose from cosine, signed, activation, reference"),
        ({"beta": 0.5, "trim_percentile": 101}, r"percentile 101 is outside \[0, 100\]"),
        ({"beta": 0.5, "trim_percentile": -1}, "percentile -1 is outside"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    cosine, mean = grid(0)
    with pytest.raises(DposcopeError, match=message):
        select_fraction(cosine, mean, **settings)


def test_means_of_another_model_are_refused():
    with pytest.raises(DposcopeError, match=r"\[2, 5\].*\[2, 4\]"):
        select_fraction(torch.ones(2, 5), torch.ones(2, 4), beta=0.5)
