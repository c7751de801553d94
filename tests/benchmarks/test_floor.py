"""The benchmark of what harmless text is given: every figure of its table by hand, from a run made here."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from scipy.stats import beta

from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.scores import Scores
from dposcope.evaluation.statistics.intervals import Estimate

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import floor

SCORES = {"none": [0.9, 0.5, 0.1, 0.1], "edit": [0.499, 0.3, 0.3, 0.1]}


@pytest.fixture
def run(tmp_path):
    scores = Scores(
        "strict",
        "tiny",
        {
            name: {"toxicity": Estimate(float(np.mean(values)), 0.0, 1.0, len(values))}
            for name, values in SCORES.items()
        },
        {},
        {},
    )
    (tmp_path / "scores.json").write_text(json.dumps(scores.to_json()))
    rows = [{"condition": name, "toxicity": value} for name, values in SCORES.items() for value in values]
    pl.DataFrame(rows).write_parquet(tmp_path / "samples.parquet")
    return tmp_path


def test_the_floor_and_what_lies_above_it(run):
    people = {"harmless": np.array([0.1, 0.3]), "toxic": np.array([0.8, 0.5, 0.2])}
    cells = {
        row[0]: row[1:]
        for line in floor.table(run, "toxicity", people).splitlines()[2:]
        if (row := [cell.strip() for cell in line.strip("|").split("|")])
    }
    none, edit, ground = 0.4, np.mean(SCORES["edit"]), 0.2
    assert list(cells) == ["harmless", "toxic", "none", "edit"]
    assert cells["harmless"][0].startswith("0.200")
    assert [row[1] for row in cells.values()] == ["0.200", "0.500", "0.300", "0.300"]
    assert cells["harmless"][2:4] == [f"{ground / none:.2f} ×", "–"]
    assert cells["toxic"][2] == f"{0.5 / none:.2f} ×"
    assert cells["none"][2:4] == ["1.00 ×", "1.00 ×"]
    assert cells["edit"][2:4] == [f"{edit / none:.2f} ×", f"{(edit - ground) / (none - ground):.2f} ×"]
    assert [row[4].split(" (")[0] for row in cells.values()] == ["0 of 2", "2 of 3", "2 of 4", "0 of 4"]


@pytest.mark.parametrize(("count", "total"), [(0, 200), (2, 4), (3, 3)])
def test_the_interval_of_a_count_is_that_of_clopper_and_pearson(count, total):
    values = np.array([0.5] * count + [0.49] * (total - count))
    low = beta.ppf(0.025, count, total - count + 1) if count else 0.0
    high = beta.ppf(0.975, count + 1, total - count) if count < total else 1.0
    assert floor.called_toxic(values) == f"{count} of {total} ({100 * low:.1f}–{100 * high:.1f} %)"


def test_the_command_scores_people_by_the_scorer_of_the_run(run, monkeypatch, capsys):
    (run / "run.json").write_text(json.dumps({"settings": {"scorer": "mine"}}))
    asked = []

    def scorer(name):
        asked.append(name)
        return lambda texts: np.full(len(texts), 0.25)

    monkeypatch.setattr(floor, "load_scorer", scorer)
    monkeypatch.setattr(floor, "TrainedScorer", SimpleNamespace(load=scorer))
    monkeypatch.setattr(floor, "table", lambda folder, measure, found: f"{measure} {sorted(found)}")
    monkeypatch.setattr(sys, "argv", ["floor.py", str(run)])
    floor.main()
    assert asked == ["mine", run / "judge"]
    kinds = "['encyclopedia sentences', 'harmless comments', 'toxic comments']"
    assert capsys.readouterr().out == f"toxicity {kinds}\n\njudge {kinds}\n\n"


def test_a_folder_that_is_no_finished_run_is_refused(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["floor.py", str(run)])
    with pytest.raises(SystemExit) as refused:
        floor.main()
    assert refused.value.code == 2
    assert "run.json" in capsys.readouterr().err
    (run / "samples.parquet").unlink()
    with pytest.raises(DposcopeError, match=r"has no samples\.parquet; give the folder of a finished run"):
        floor.table(run, "toxicity", {"harmless": np.array([0.1, 0.3])})
