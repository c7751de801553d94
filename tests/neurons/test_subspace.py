"""The SVD subspace against eigenvectors, cosines and sign counts written out with numpy and loops."""

import numpy as np
import pytest
import torch

from dposcope.directions.direction import Direction
from dposcope.errors import DposcopeError
from dposcope.neurons.activations import NeuronMeans
from dposcope.neurons.contributions import contributions
from dposcope.neurons.subspace import (
    AxisSigns,
    Subspace,
    alignment_signs,
    change_signs,
    random_axes,
    subspace_stability,
    svd_subspace,
)
from helpers.families import copied, naive_vectors, random_direction
from helpers.naive import ranked_naively


def direction_of(lm, seed=0):
    return Direction(3 * random_direction(lm, seed), "probe", 1, {"seed": seed})


def columns_naively(lm, W: torch.Tensor, n: int) -> np.ndarray:
    """[d, n]: the normalised value vectors of highest cosine."""
    columns = []
    for _, block, i in ranked_naively(lm, W)[:n]:
        v = naive_vectors(lm, block)[i].numpy()
        columns.append(v / np.sqrt((v * v).sum()))
    return np.array(columns).T


def axes_naively(columns: np.ndarray, W: np.ndarray, axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Left singular vectors as eigenvectors of A Aᵀ, signed towards W, and all singular values."""
    values, vectors = np.linalg.eigh(columns @ columns.T)
    order = np.argsort(values)[::-1]
    kept = vectors[:, order[:axes]]
    for k in range(axes):
        if kept[:, k] @ W < 0:
            kept[:, k] *= -1
    return kept, np.sqrt(np.clip(values[order], 0, None))[: min(columns.shape)]


# Axes


@pytest.mark.parametrize(("n", "axes"), [(12, 3), (40, 3), (5, 2), (1, 1)])
def test_axes_are_eigenvectors_signed_towards_the_direction(lm, n, axes):
    direction = direction_of(lm)
    found = svd_subspace(lm, direction, vectors=n, axes=axes)
    expected, values = axes_naively(columns_naively(lm, direction.vector, n), direction.vector.numpy(), axes)
    assert found.axes.shape == (lm.d_model, axes)
    assert found.axes.dtype == torch.float64
    np.testing.assert_allclose(found.axes.numpy(), expected, atol=1e-7)
    np.testing.assert_allclose(found.singular_values.numpy(), values, atol=1e-7)
    assert (direction.vector @ found.axes > 0).all()
    assert found.vectors == n
    assert found.direction is direction


def test_singular_values_hold_the_whole_matrix(lm):
    """Columns are unit vectors, so squares of singular values sum to N."""
    found = svd_subspace(lm, direction_of(lm), vectors=20)
    assert found.singular_values.square().sum().item() == pytest.approx(20)
    table = found.to_polars()
    assert table.columns == ["axis", "singular_value", "share", "cosine"]
    assert table["axis"].to_list() == [0, 1, 2]
    np.testing.assert_allclose(table["share"].to_numpy(), table["singular_value"].to_numpy() ** 2 / 20)
    W = direction_of(lm).vector.numpy()
    for k, row in enumerate(table.to_dicts()):
        assert row["cosine"] == pytest.approx(found.axes[:, k].numpy() @ W / np.linalg.norm(W))


def test_the_sizes_of_value_vectors_and_of_the_direction_do_not_count(llama):
    lm = copied(llama)
    with torch.no_grad():
        for block in range(lm.n_blocks):
            # Powers of two, so that no bit of a vector changes.
            lm.value_vectors(block).mul_(2.0 ** torch.randint(-3, 4, (lm.d_mlp, 1)))
    direction = direction_of(llama)
    plain = svd_subspace(llama, direction, vectors=12)
    scaled = svd_subspace(lm, Direction(8 * direction.vector, "probe", 1), vectors=12)
    torch.testing.assert_close(scaled.axes, plain.axes)


def test_a_half_precision_model_gives_the_axes_of_its_weights(llama):
    lm = copied(llama)
    lm.model.to(torch.bfloat16)
    exact = copied(lm)
    exact.model.double()
    direction = direction_of(lm)
    assert torch.equal(svd_subspace(lm, direction, vectors=12).axes, svd_subspace(exact, direction, vectors=12).axes)


def test_the_combined_direction_weighs_axes_by_singular_values(lm):
    direction = direction_of(lm)
    found = svd_subspace(lm, direction, vectors=12)
    combined = found.combined
    expected = sum(found.singular_values[k] * found.axes[:, k] for k in range(3))
    torch.testing.assert_close(combined.vector, expected)
    assert (combined.kind, combined.block) == ("svd_subspace", 1)
    assert combined.about == {"model": lm.name, "fingerprint": lm.fingerprint, "vectors": 12, "axes": 3}
    assert combined.cosine(direction) > 0


def test_a_subspace_is_saved_and_read(llama, tmp_path):
    found = svd_subspace(llama, direction_of(llama), vectors=12)
    found.save(tmp_path / "subspace")
    again = Subspace.load(tmp_path / "subspace")
    for name in ("axes", "singular_values"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert torch.equal(again.direction.vector, found.direction.vector)
    assert (again.direction.kind, again.direction.block, again.direction.about) == ("probe", 1, {"seed": 0})
    assert (again.vectors, again.about) == (12, found.about)


def test_axes_that_the_vectors_do_not_span_are_refused(llama):
    lm, direction = copied(llama), direction_of(llama)
    with pytest.raises(DposcopeError, match="2 value vectors of tiny-llama span 2 dimensions, fewer than 3 axes; take"):
        svd_subspace(lm, direction, vectors=2)
    with torch.no_grad():
        for i in range(4):
            lm.value_vectors(0)[i] = 2.0**i * direction.vector.float()  # without rounding
    with pytest.raises(DposcopeError, match="4 value vectors of tiny-llama span 1 dimensions"):
        svd_subspace(lm, direction, vectors=4, axes=2)
    for block in range(lm.n_blocks):
        with torch.no_grad():
            lm.value_vectors(block).zero_()
    with pytest.raises(DposcopeError, match="12 value vectors of tiny-llama span 0 dimensions"):
        svd_subspace(lm, direction, vectors=12)


def test_settings_out_of_range_are_refused(llama):
    with pytest.raises(DposcopeError, match="cannot keep 0 axes; keep at least one"):
        svd_subspace(llama, direction_of(llama), vectors=12, axes=0)
    with pytest.raises(DposcopeError, match="cannot take the top 73 of 72 neurons"):
        svd_subspace(llama, direction_of(llama), vectors=73)


# Stability


def angles_naively(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """arccos of the singular values of U₁ᵀ U₂, in degrees, rising."""
    return np.degrees(np.arccos(np.clip(np.linalg.svd(one.T @ other)[1], -1, 1)))


def test_angles_are_those_between_the_subspaces_of_each_two_sizes(lm):
    direction = direction_of(lm)
    sizes = (8, 16, 40, 70)
    found = subspace_stability(lm, direction, sizes=sizes, axes=3)
    spans = [svd_subspace(lm, direction, vectors=n).axes.numpy() for n in sizes]
    assert found.sizes == sizes
    for row, one, other in zip(found.angles, spans[:-1], spans[1:], strict=True):
        np.testing.assert_allclose(row.numpy(), angles_naively(one, other), atol=1e-4)
        assert row[-1] > 1, "nothing turned"
    assert (found.angles.diff(dim=1) >= 0).all()


def test_a_stable_subspace_turns_by_nothing_and_a_random_one_by_much(llama):
    """Vectors are added that lie in the span already."""
    lm, direction = copied(llama), direction_of(llama)
    stream = torch.Generator().manual_seed(0)
    plane = torch.linalg.qr(torch.stack([direction.vector, random_direction(llama, 1)]).T)[0]
    with torch.no_grad():
        for block in range(lm.n_blocks):
            mixed = torch.randn(lm.d_mlp, 2, generator=stream, dtype=torch.float64)
            lm.value_vectors(block).copy_(mixed @ plane.T)
    found = subspace_stability(lm, direction, sizes=(4, 8, 30), axes=2)
    assert found.angles.max() < 1e-3
    assert found.random_angles.min() > 10


def test_the_table_of_angles(llama):
    found = subspace_stability(llama, direction_of(llama), sizes=(8, 16, 40), axes=2, seed=5)
    rows = found.to_polars().to_dicts()
    assert [(row["vectors"], row["next"]) for row in rows] == [(8, 16), (16, 40), (None, None)]
    for row, angles in zip(rows, [*found.angles, found.random_angles], strict=True):
        assert [row["angle_1"], row["angle_2"]] == angles.tolist()
    other = subspace_stability(llama, direction_of(llama), sizes=(8, 16, 40), axes=2, seed=6)
    assert torch.equal(other.angles, found.angles)
    assert not torch.equal(other.random_angles, found.random_angles)


@pytest.mark.parametrize("sizes", [(8,), (), (16, 8), (8, 8)])
def test_sizes_that_do_not_rise_are_refused(llama, sizes):
    with pytest.raises(DposcopeError, match="are not two or more rising numbers; give such as 64 and 128"):
        subspace_stability(llama, direction_of(llama), sizes=sizes)


# Random axes


def test_random_axes_are_orthonormal_and_seeded():
    axes = random_axes(30, 3, seed=1)
    torch.testing.assert_close(axes.T @ axes, torch.eye(3, dtype=torch.float64))
    assert torch.equal(axes, random_axes(30, 3, seed=1))
    assert not torch.equal(axes, random_axes(30, 3, seed=2))


def test_random_axes_prefer_no_sign():
    entries = torch.stack([random_axes(4, 2, seed=seed)[0] for seed in range(400)])
    assert ((entries > 0).double().mean(0) - 0.5).abs().max() < 0.1


@pytest.mark.parametrize("axes", [0, 5])
def test_more_random_axes_than_dimensions_are_refused(axes):
    with pytest.raises(DposcopeError, match=f"{axes} orthonormal axes do not fit in 4 dimensions"):
        random_axes(4, axes, seed=0)


# Signs


def conflict_naively(signs: list[int]) -> bool:
    return 1 in signs and -1 in signs


def check_signs(found: AxisSigns, table: torch.Tensor, expected_of) -> float:
    """Every sign of `table`, and the share of conflicts, against a loop; `expected_of(k, block, i)` is the number."""
    axes, blocks, width = table.shape
    conflicts = 0
    for block in range(blocks):
        for i in range(width):
            signs = [int(np.sign(expected_of(k, block, i))) for k in range(axes)]
            assert table[:, block, i].tolist() == signs
            conflicts += conflict_naively(signs)
            if table is found.signs:
                assert bool(found.conflicting.mask[block, i]) == conflict_naively(signs)
    return conflicts / (blocks * width)


def test_signs_of_cosines_are_those_of_dot_products(lm):
    subspace = svd_subspace(lm, direction_of(lm), vectors=12)
    found = alignment_signs(lm, subspace, seed=7)
    vectors = [naive_vectors(lm, block).numpy() for block in range(lm.n_blocks)]

    def along(axes):
        return lambda k, block, i: vectors[block][i] @ axes[:, k].numpy()

    assert found.of == "cosine"
    assert found.signs.dtype == torch.int8
    assert found.share == pytest.approx(check_signs(found, found.signs, along(subspace.axes)))
    control = random_axes(lm.d_model, 3, seed=7)
    assert found.random_share == pytest.approx(check_signs(found, found.random_signs, along(control)))
    assert 0 < found.share < 1


def tuned_of(lm):
    """Every weight a little changed, and means of both models."""
    tuned = copied(lm)
    stream = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=stream))
    shape = (lm.n_blocks, lm.d_mlp)
    before, after = (torch.randn(shape, generator=stream, dtype=torch.float64) for _ in range(2))
    return tuned, *(NeuronMeans(mean, mean.square() + 1, 10) for mean in (before, after))


def test_signs_of_changes_are_those_of_equation_2_along_each_axis(lm):
    tuned, before, after = tuned_of(lm)
    direction = direction_of(lm)
    change = contributions(lm, tuned, before, after, direction.vector)
    subspace = svd_subspace(lm, direction, vectors=12)
    found = change_signs(lm, tuned, change, subspace, seed=3)
    pre = [naive_vectors(lm, block).numpy() for block in range(lm.n_blocks)]
    post = [naive_vectors(tuned, block).numpy() for block in range(lm.n_blocks)]

    def along(axes):
        return lambda k, block, i: (
            (before.mean[block, i].item() * pre[block][i] - after.mean[block, i].item() * post[block][i])
            @ axes[:, k].numpy()
        )

    assert found.of == "change"
    assert found.share == pytest.approx(check_signs(found, found.signs, along(subspace.axes)))
    control = random_axes(lm.d_model, 3, seed=3)
    assert found.random_share == pytest.approx(check_signs(found, found.random_signs, along(control)))
    assert 0 < found.share < 1


def test_a_change_along_w_alone_has_the_signs_of_the_contributions(llama):
    tuned, before, after = tuned_of(llama)
    direction = direction_of(llama)
    change = contributions(llama, tuned, before, after, direction.vector)
    along = Subspace(direction.unit.unsqueeze(1), torch.ones(1, dtype=torch.float64), direction, 1)
    found = change_signs(llama, tuned, change, along)
    assert torch.equal(found.signs[0] > 0, change.reduces.mask)
    assert torch.equal(found.signs[0] < 0, change.increases.mask)
    assert (found.share, found.chance) == (0, 0)


def test_where_nothing_changed_nothing_conflicts(llama):
    _, before, _ = tuned_of(llama)
    direction = direction_of(llama)
    same = copied(llama)
    change = contributions(llama, same, before, before, direction.vector)
    found = change_signs(llama, same, change, svd_subspace(llama, direction, vectors=12))
    assert not found.signs.any()
    assert found.share == found.random_share == 0


def test_contributions_of_other_models_are_refused(llama):
    tuned, before, after = tuned_of(llama)
    direction = direction_of(llama)
    change = contributions(llama, tuned, before, after, direction.vector)
    subspace = svd_subspace(llama, direction, vectors=12)
    with pytest.raises(DposcopeError, match="model before tuning is not tiny-llama, by its weights or precision; make"):
        change_signs(tuned, tuned, change, subspace)
    with pytest.raises(DposcopeError, match="model after tuning is not tiny-llama"):
        change_signs(llama, llama, change, subspace)


def test_random_vectors_conflict_at_the_chance_level():
    """The paper's 74.7 % is what three fair coins give: 1 − 2 · (1/2)³."""
    stream = torch.Generator().manual_seed(0)
    vectors = torch.randn(40_000, 20, generator=stream, dtype=torch.float64)
    signs = (vectors @ random_axes(20, 3, seed=0)).sign().to(torch.int8).T.unsqueeze(1)
    found = AxisSigns("cosine", signs, signs)
    assert found.chance == 0.75
    assert found.share == pytest.approx(0.75, abs=0.01)
    assert AxisSigns("cosine", signs[:2], signs).chance == 0.5


def test_a_sign_of_zero_conflicts_with_nothing():
    signs = torch.tensor([[1, 0, 1, 0], [0, -1, -1, 0], [1, 0, 0, 0]], dtype=torch.int8).unsqueeze(1)
    found = AxisSigns("cosine", signs, -signs[:, :, :2])
    assert found.conflicting.mask.tolist() == [[False, False, True, False]]
    assert found.to_polars().to_dicts() == [
        {"of": "cosine", "axes": 3, "neurons": 4, "share": 0.25, "random_share": 0.0, "chance": 0.75}
    ]
