"""All tables and figures of `explain`, from results made by hand."""

from dataclasses import replace
from itertools import groupby

import numpy as np
import polars as pl
import pytest
import torch

from dposcope.evaluation.conditions.scores import BASE
from dposcope.jobs.explain.results import Results, pictures_of, tables_of
from dposcope.neurons.shifts import edit_agreement
from helpers.explained import START
from helpers.families import FAMILIES
from helpers.jobs import blank
from helpers.repeated import stable
from helpers.results import PATCHES, results
from helpers.training_facts import TRAINING

TABLES = [
    *("table-01-direction", "table-02-interventions", "table-03-toxic-neurons", "table-05-groups"),
    *("table-06-anti-toxic-examples", "table-08-model", "table-09-training", "table-11-direction"),
    *("table-12-steering", "table-13-negative", "table-14-toxic-vectors", "table-15-anti-toxic-vectors"),
    *("table-16-subspace", "subspace-conflicts", "subspace-stability", "table-17-correlations"),
    *("table-18-reducing", "table-19-interventions", "edit-shifts", "change", "claims"),
]
FIGURES = [
    *("figure-01-balance-later", "figure-02a-proportions", "figure-02b-cumulative", "figure-02c-shifts"),
    *("figure-03-toxic-activations", "figure-04-density", "figure-05-balance", "figure-07a-shifts"),
    *("figure-07b-shifts", "figure-08-groups-by-block", "toxicity", "shares-of-reduction"),
]


@pytest.fixture(scope="module")
def full() -> Results:
    return results()


def table(made: Results, name: str):
    (found,) = [one for one in tables_of(made) if one.name == name]
    return found


def test_every_table_of_the_paper_is_there_in_its_order(full):
    assert [one.name for one in tables_of(full)] == TABLES


def test_tables_have_content(full):
    assert {one.name: blank(one) for one in tables_of(full) if blank(one)} == {}
    assert [one.name for one in tables_of(full) if not all(one.head)] == []


def test_a_probe_fitted_to_compare_has_its_row(full):
    probe = full.explanation.direction
    other = replace(full.explanation, direction=replace(probe, kind="mean_difference", about={}))
    made = replace(full, explanation=other, probe=probe)
    assert [row[1:4] for row in table(made, "table-11-direction").rows] == [
        ("mean difference", "by the run", "–"),
        ("probe", "to compare", "91.2 %"),
    ]
    assert blank(table(replace(made, probe=None), "table-11-direction"))


def test_every_figure_of_the_paper_is_there_in_its_order(full):
    pictures = pictures_of(full)
    assert [one.name for one in pictures] == FIGURES
    titles = " ".join(one.title for one in pictures)
    for number in ("1", "2a and 6a", "2b and 6b", "2c and 6c", "3", "4", "5", "7a", "7b", "8"):
        assert f"{number})" in titles


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_told_and_written_whole(family, tmp_path):
    made = results(family, keep=lambda row: row.role in ("tuned", "edit"))
    for one in tables_of(made):
        one.save(tmp_path)
        assert pl.read_parquet(tmp_path / f"{one.name}.parquet").equals(one.to_polars())
        assert len({len(row) for row in one.rows}) <= 1
    assert not [one.name for one in tables_of(made) if pl.Null in one.to_polars().dtypes]


@pytest.mark.parametrize(
    ("keep", "training", "gone"),
    [
        (lambda row: row.role != "edit", TRAINING, {"table-19-interventions", "edit-shifts"}),
        (lambda row: row.role != "steer", TRAINING, {"table-12-steering"}),
        (lambda row: row.role not in ("patch", "control"), TRAINING, set()),
        (lambda row: True, None, {"table-09-training"}),
    ],
    ids=["edits", "steering", "patches", "training"],
)
def test_what_was_not_measured_is_left_out(keep, training, gone):
    names = [one.name for one in tables_of(results(keep=keep, training=training))]
    assert names == [name for name in TABLES if name not in gone]


def test_table_2_has_no_ranking_by_activation_and_table_19_no_single_groups(full):
    rows = [row.name for row in full.conditions]
    expected = {
        "table-02-interventions": [name for name in rows if "activation" not in name],
        "table-19-interventions": [
            name for name in rows if name not in {f"patch-{p}" for p in PATCHES[:6]} and "random" not in name
        ],
    }
    for name, conditions in expected.items():
        assert table(full, name).to_polars()["condition"].to_list() == [BASE, *conditions]
    sizes = dict(table(full, "table-02-interventions").to_polars().select("condition", "neurons").iter_rows())
    assert (sizes["patch-TP"], sizes["patch-random"], sizes[BASE]) == (6, None, None)


def test_table_3_counts_the_sets_of_the_explanation(full):
    sets = full.explanation.patch_sets()
    rows = table(full, "table-03-toxic-neurons").rows
    assert [row[:2] for row in rows] == [(name, str(len(neurons))) for name, neurons in sets.items()]
    assert [row[0] for row in rows] == ["toxic tokens", "top 8", "top 16"]
    assert [row[3].split(" %")[0] for row in rows] == ["30.0", "40.0", "50.0"]
    unmeasured = table(results(keep=lambda row: row.role == "tuned"), "table-03-toxic-neurons").rows
    assert [row[1] for row in unmeasured] == [row[1] for row in rows]
    assert {row[3] for row in unmeasured} == {"–"}


def test_the_chosen_steering_is_named_beside_the_direction(full):
    assert table(full, "table-11-direction").rows[0][-1] == "Label of steer-0.1"
    assert table(results(keep=lambda row: row.role != "steer"), "table-11-direction").rows[0][-1] == "–"


def test_the_best_edits_shifts_are_compared_with_tunings(full):
    # Scaled neurons move by (1 − g) m, frozen ones by m − c; all others stay.
    change = full.explanation.contributions
    before = change.before.mean

    def shift(count: int, factor: float) -> torch.Tensor:
        moved = torch.zeros_like(before)
        for neuron in range(count):
            moved[0, neuron] = before[0, neuron] * (1 - factor)
        return moved

    for made, name, expected in (
        (full, "scale-probe-activation-0.01-0.8", shift(9, 0.9)),
        (
            results(keep=lambda row: row.edit is None or row.edit.form != "scale"),
            "assign-probe-cosine-0.01-0.8",
            shift(7, 0.99),
        ),
    ):
        found = made.agreement
        assert found is not None
        assert found[0] == f"Label of {name}"
        naive = edit_agreement(change, expected)
        assert found[1].overall.correlation.r == pytest.approx(naive.overall.correlation.r, abs=1e-5)
        assert found[1].overall.edit_size == pytest.approx(naive.overall.edit_size, rel=1e-4)
        assert found[1].overall.moved_by_both == naive.overall.moved_by_both
    assert results(keep=lambda row: row.role != "edit").agreement is None


def test_without_an_edit_that_reaches_dpo_the_last_one_is_compared():
    made = results(tuned=0.01 * START)
    assert made.agreement is not None
    assert made.agreement[0] == made.conditions[-1].label


def test_claims_are_in_the_papers_order(full):
    sections = [claim.section for claim in full.claims]
    assert [section for section, _ in groupby(sections)] == ["3.1", "4", "5.1", "5.2", "6", "E", "G", "H", "K"]
    frame = table(full, "claims").to_polars()
    assert frame["verdict"].to_list() == [claim.verdict for claim in full.claims]
    assert frame["value"].to_list() == [claim.value for claim in full.claims]
    assert set(frame.select("model", "protocol").rows()) == {(full.lm.name, "strict")}


def test_figures_carry_the_numbers_that_they_draw(full):
    pictures = {one.name: one for one in pictures_of(full)}
    layers = full.explanation.layers
    first = round(10 / 32 * len(layers.net))
    assert first == 1
    assert pictures["figure-05-balance"].data["net"].to_list() == layers.net.tolist()
    assert pictures["figure-01-balance-later"].data["net"].to_list() == layers.net[first:].tolist()
    assert pictures["figure-03-toxic-activations"].data["after"].to_list() == full.explanation.top.after.tolist()
    for name, one in zip(("02c", "07a", "07b"), full.explanation.ranges.ranges, strict=True):
        assert pictures[f"figure-{name}-shifts"].data["shift"].to_list() == one.shift.tolist()
    # Controls of edits belong to the edits, which are too many for a figure.
    assert any(row.role == "control" and row.edit is not None for row in full.conditions)
    shown = [row for row in full.conditions if row.edit is None]
    assert pictures["toxicity"].data["condition"].to_list() == [BASE, *(row.name for row in shown)]
    assert pictures["toxicity"].data["mean"].to_list() == pytest.approx(
        [float(np.mean(full.outcomes[name].per_prompt["toxicity"])) for name in (BASE, *(row.name for row in shown))]
    )
    parts = [row for row in shown if row.section == "Activation patching"]
    assert pictures["shares-of-reduction"].data["condition"].to_list() == [row.name for row in parts]
    shares = [full.shares[row.name] for row in parts]
    assert pictures["shares-of-reduction"].data["share"].to_list() == [share.share for share in shares if share]


def test_without_a_certain_reduction_there_is_no_figure_of_shares():
    made = results(tuned=START + 0.1)
    assert [one.name for one in pictures_of(made)] == FIGURES[:-1]
    assert set(made.shares.values()) == set(made.judged.values()) == {None}


def test_data_of_figures_is_flat(full):
    for one in pictures_of(full):
        assert not [name for name, kind in one.data.schema.items() if kind.is_nested()], one.name


def test_results_are_not_changed_by_being_read(full):
    again = replace(full)
    assert [one.rows for one in tables_of(again)] == [one.rows for one in tables_of(full)]


def test_stability_stands_before_the_claims_and_after_all_figures(full):
    made = replace(full, stability=stable())
    assert [one.name for one in tables_of(made)] == [*TABLES[:-1], "stability-groups", "stability-ranks", "claims"]
    pictures = pictures_of(made)
    assert [one.name for one in pictures] == [*FIGURES, "stability"]
    assert pictures[-1].data.equals(made.stability.to_polars())
