"""How things were made: training, direction, an edit's shifts."""

from dataclasses import replace

import torch

from dposcope.directions.direction import Direction
from dposcope.evaluation.numbers import fact
from dposcope.jobs.explain.beside_paper import _training
from dposcope.jobs.explain.tables.setup import agreement_table, probe_table, training_table
from dposcope.neurons.shifts import edit_agreement, shift_of_gains
from helpers.changes import neurons_of, random_change
from helpers.training_facts import GAINS_TRAINING


def test_settings_stand_beside_the_papers():
    table = training_table("m", GAINS_TRAINING)
    cells = {name: (value, paper) for name, value, paper in table.rows}
    assert cells == {
        "β": ("0.1", "0.1"),
        "λ (KL weight)": ("0.05", "0.02 to 0.1"),
        "KL on": ("neutral", "pairs"),
        "optimizer": ("adamw", "RMSprop"),
        "learning rate": ("0.01", "1e-5"),
        "warm-up steps": ("150", "150"),
        "batch size": ("8", "4, gradients of 4 added up"),
        "gradient norm at most": ("1", "10"),
        "patience": ("none", "30"),
        "batch size in evaluation": ("8", "8"),
        "input tokens at most": ("68", "256"),
        "prompt tokens at most": ("48", "64"),
        "new tokens at most": ("20", "64"),
        "epochs": ("0.5", "5"),
        "trained": ("gains", "–"),
        "pairs, with those for validation": ("24,576", "24,576"),
        "pairs for validation": ("10", "–"),
        "steps": ("1,234", "–"),
        "seed": ("3", "–"),
    }
    assert table.to_polars().rows() == [(name, value) for name, (value, _) in cells.items()]
    assert table.name == "table-09-training"
    assert "Tables 9 and 10" in table.title


QUALITY = {"accuracy": 0.9123, "majority": 0.904, "balanced_accuracy": 0.7, "roc_auc": 0.95}
PROBE = Direction(torch.ones(3), "probe", -1, {"quality": QUALITY})


def test_pairs_are_counted_as_where_they_are_compared():
    """The paper's 24,576 stand beside the same number in both tables."""
    shown = dict(row[:2] for row in training_table("m", GAINS_TRAINING).rows)["pairs, with those for validation"]
    made = _training(GAINS_TRAINING)
    assert made is not None
    assert shown == f"{made.pairs:,}"


def test_validation_is_read_in_batches_that_fit_the_memory():
    """As the trainer does: by the micro-batch, where there is one."""
    training = replace(GAINS_TRAINING, schedule=replace(GAINS_TRAINING.schedule, micro_batch_size=2))
    assert ("batch size in evaluation", "2", "8") in training_table("m", training).rows
    papers = replace(training, schedule=replace(training.schedule, validation_batch_size=8))
    assert ("batch size in evaluation", "8", "8") in training_table("m", papers).rows


def test_a_probe_stands_beside_the_majority():
    table = probe_table("m", PROBE, "Steering, α = 0.07")
    cells = ("91.2 %", "90.4 %", "70.0 %", "95.0 %", "Steering, α = 0.07")
    assert table.rows == (("m", "probe", "by the run", *cells),)
    assert table.to_polars().rows() == [("m", "probe", "by the run", 0.9123, 0.904, 0.7, 0.95, "Steering, α = 0.07")]
    assert len(table.notes) == 1


def test_a_direction_that_was_not_tested_has_dashes():
    table = probe_table("m", Direction(torch.ones(3), "mean_difference", -1), None)
    assert table.rows == (("m", "mean difference", "by the run", "–", "–", "–", "–", "–"),)
    assert table.to_polars().rows() == [("m", "mean_difference", "by the run", None, None, None, None, None)]
    assert [str(kind) for kind in table.to_polars().dtypes[3:]] == ["Float64"] * 4 + ["String"]


def test_a_probe_that_was_fitted_to_compare_stands_below_such_a_direction():
    table = probe_table("m", Direction(torch.ones(3), "mean_difference", -1), "Steering, α = 0.07", probe=PROBE)
    assert table.rows == (
        ("m", "mean difference", "by the run", "–", "–", "–", "–", "Steering, α = 0.07"),
        ("m", "probe", "to compare", "91.2 %", "90.4 %", "70.0 %", "95.0 %", "–"),
    )
    assert table.to_polars().select("used", "accuracy", "steering").rows() == [
        ("by the run", None, "Steering, α = 0.07"),
        ("to compare", 0.9123, None),
    ]
    assert "to compare" in table.notes[-1].lower()


def test_an_edits_shifts_beside_those_of_tuning():
    change = random_change(2)
    gains = torch.where(change.cosine > 0.2, 0.9, 1.0)
    found = edit_agreement(change, shift_of_gains(change, gains))
    table = agreement_table("m", "scale-a", found)
    assert [row[0] for row in table.rows] == ["all", "TP", "TN", "AP", "AN"]
    for row in table.rows:
        mine = [neuron for neuron in neurons_of(change) if row[0] in ("all", neuron.group)]
        edit = [0.1 * neuron.before if neuron.cosine > 0.2 else 0.0 for neuron in mine]
        both = [(e, neuron.shift) for e, neuron in zip(edit, mine, strict=True) if e and neuron.shift]
        same = [(e > 0) == (shift > 0) for e, shift in both]
        assert row[1] == str(len(mine))
        assert row[3] == (f"{100 * sum(same) / len(same):.1f} %" if same else "–")
        size, tuned = (sum(map(abs, part)) / len(mine) for part in (edit, [neuron.shift for neuron in mine]))
        assert row[4:] == (fact(size), fact(tuned))
    assert [row[2] for row in table.rows[3:]] == ["–", "–"], "no neuron of AP or AN was moved"
    assert table.to_polars().equals(found.to_polars())
