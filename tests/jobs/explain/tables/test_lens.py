"""Tables of tokens, on the explanation of a tiny model of every family."""

from dataclasses import replace

import pytest
import torch

from dposcope.directions.lens import lens
from dposcope.jobs.explain.tables.lens import (
    anti_toxic_examples_table,
    anti_toxic_vectors_table,
    conflicts_table,
    direction_table,
    stability_table,
    subspace_table,
    toxic_vectors_table,
)
from dposcope.neurons.groups import cosines
from helpers.explained import pair
from helpers.families import FAMILIES, naive_vectors

families = pytest.mark.parametrize("family", FAMILIES)


def ranked(made, sign: float):
    """(block, index, tokens of ±v) of the 16 neurons of highest cosine with ±W, the highest first."""
    table = sign * cosines(made.base, made.explanation.direction.vector)
    width = table.shape[1]
    order = sorted(range(table.numel()), key=lambda place: -float(table.flatten()[place]))[:16]
    rows = []
    for place in order:
        block, index = place // width, place % width
        vector = sign * naive_vectors(made.base, block)[index]
        rows.append((block, index, lens(made.base, vector, k=5)[0].top))
    return rows


def is_toxic(token: str) -> bool:
    """What the word list knows of the tiny vocabulary."""
    return token.strip() in ("stupid", "idiot", "dumb")


def listed(made, sign: float, most: int):
    minus = "−" if sign < 0 else ""
    rows = [
        (f"{minus}v {block}.{index}", str(rank), ", ".join(token.strip() for token in tokens if token.strip()))
        for rank, (block, index, tokens) in enumerate(ranked(made, sign), 1)
        if any(map(is_toxic, tokens))
    ]
    return tuple(rows[:most])


@families
def test_vectors_with_a_toxic_token_are_listed_by_rank(family):
    made = pair(family)
    for table, sign in (
        (toxic_vectors_table("m", made.explanation), 1.0),
        (anti_toxic_vectors_table("m", made.explanation), -1.0),
    ):
        assert table.rows == listed(made, sign, 12)
        frame = table.to_polars()
        assert frame["tokens"].to_list() == [list(tokens) for _, _, tokens in ranked(made, sign)]
        assert frame["toxic"].to_list() == [list(map(is_toxic, tokens)) for _, _, tokens in ranked(made, sign)]
        assert frame["rank"].to_list() == list(range(1, 17))
        holding = sum(any(map(is_toxic, tokens)) for _, _, tokens in ranked(made, sign))
        assert table.notes == (
            f"Of the 16 nearest, with a toxic token (judge: {made.explanation.toxic.judge}): {holding}; "
            f"shown: {min(holding, 12)}. v block.index; rank by cosine.",
        )


def test_some_family_has_toxic_and_anti_toxic_vectors():
    assert all(any(listed(pair(family), sign, 12) for family in FAMILIES) for sign in (1.0, -1.0))


@families
def test_examples_are_the_first_of_the_longer_table(family):
    made = pair(family)
    table = anti_toxic_examples_table("m", made.explanation)
    assert table.rows == listed(made, -1.0, 4)
    assert table.to_polars()["rank"].to_list() == [int(rank) for _, rank, _ in table.rows]


@families
def test_the_direction_stands_before_the_nearest_toxic_vectors(family):
    made = pair(family)
    table = direction_table("m", made.explanation)
    own = lens(made.base, made.explanation.direction.vector, k=5)[0].top
    assert table.rows[0] == ("W", "–", ", ".join(token.strip() for token in own if token.strip()))
    assert table.rows[1:] == listed(made, 1.0, 4)
    frame = table.to_polars()
    assert frame["rank"].to_list() == [0, *(int(rank) for _, rank, _ in table.rows[1:])]
    assert frame["tokens"].to_list()[0] == list(own)
    assert frame["block"].to_list()[0] is None


@families
def test_the_subspace_has_its_axes_and_their_weighted_sum(family):
    made = pair(family)
    subspace, unit = made.explanation.subspace, made.explanation.direction.unit
    vectors = [*subspace.axes.T, subspace.axes @ subspace.singular_values[:3]]
    table = subspace_table("m", made.explanation)
    assert [row[0] for row in table.rows] == ["axis 0", "axis 1", "axis 2", "weighted sum"]
    squares = float((subspace.singular_values**2).sum())
    for k, (row, vector, stored) in enumerate(
        zip(table.rows, vectors, table.to_polars().iter_rows(named=True), strict=True)
    ):
        tokens = lens(made.base, vector, k=5)[0].top
        cosine = float(unit @ vector / vector.norm())
        assert row[3:] == (f"{cosine:.3f}", ", ".join(token.strip() for token in tokens if token.strip()))
        assert stored["tokens"] == list(tokens)
        assert stored["cosine"] == pytest.approx(cosine)
        if k < 3:
            value = float(subspace.singular_values[k])
            assert row[1:3] == (f"{value:.3f}", f"{100 * value**2 / squares:.1f} %")
        else:
            assert row[1:3] == ("–", "–")
            assert stored["singular_value"] is None


@families
def test_conflicts_stand_beside_random_axes_and_chance(family):
    made = pair(family)
    table = conflicts_table("m", made.explanation)

    def conflicting(signs) -> float:
        rows = signs.flatten(1).T.tolist()
        return sum(max(row) > 0 > min(row) for row in rows) / len(rows)

    for row, signs, paper in zip(
        table.rows, (made.explanation.alignment, made.explanation.changes), (74.7, 74.3), strict=True
    ):
        shares = [conflicting(signs.signs), conflicting(signs.random_signs), 0.75]
        assert row[1:] == (*(f"{100 * share:.1f} %" for share in shares), f"{paper} %")
    assert table.notes[0].startswith("3 independent signs conflict in 75.0 % of cases.")
    two = replace(made.explanation.alignment, signs=torch.ones(2, 1, 4, dtype=torch.int8))
    notes = conflicts_table("m", replace(made.explanation, alignment=two)).notes
    assert notes[0].startswith("2 independent signs conflict in 50.0 % of cases.")


@families
def test_stability_has_a_row_per_two_sizes_and_one_for_chance(family):
    found = pair(family).explanation.stability
    table = stability_table("m", found_in(pair(family)))
    assert [row[0] for row in table.rows] == [
        *(f"{few} and {more}" for few, more in zip(found.sizes, found.sizes[1:], strict=False)),
        "two random subspaces",
    ]
    for row, angles in zip(table.rows, [*found.angles.tolist(), found.random_angles.tolist()], strict=True):
        assert row[1:] == tuple(f"{angle:.1f}°" for angle in angles)


def found_in(made):
    return made.explanation


def test_every_table_names_its_model_in_its_title():
    found = pair("llama").explanation
    for make in (direction_table, toxic_vectors_table, subspace_table, conflicts_table, stability_table):
        assert "org/model" in make("org/model", found).title
