"""Conditions paired by prompt, by hand."""

import sys
from pathlib import Path

import polars as pl
import pytest

from dposcope.errors import DposcopeError

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import paired

NONE = [0.2, 0.4, 0.9, 0.7] * 5
DPO = [0.1, 0.1, 0.2, 0.2] * 5
HALF = [(one + other) / 2 for one, other in zip(NONE, DPO, strict=True)]


@pytest.fixture
def run(tmp_path):
    frames = [
        pl.DataFrame({"condition": name, "row": range(20), "prompt_digest": "a", "toxicity": scores, "empty": 0.0})
        for name, scores in {"none": NONE, "dpo": DPO, "half": HALF}.items()
    ]
    pl.concat(frames).sample(fraction=1.0, shuffle=True, seed=1).write_parquet(tmp_path / "samples.parquet")
    return tmp_path


def test_one_condition_minus_another(run):
    (line,) = paired.differences([run], "half", "dpo").frame.rows(named=True)
    mean = sum(HALF) / 20 - sum(DPO) / 20
    assert line["toxicity"].startswith(f"+{mean:.3f} (")
    assert "empty" not in line
    with pytest.raises(DposcopeError, match="the run has no condition 'gains', only"):
        paired.differences([run], "gains", "dpo")


def test_shares_of_a_reduction_and_what_is_lacking(run):
    (line,) = paired.shares(run, "dpo").frame.rows(named=True)
    assert line["condition"] == "half"
    assert line["toxicity"].startswith("50.0 % (50.0")
    assert line["toxicity, lacking"].startswith("50.0 % (50.0")
    with pytest.raises(DposcopeError, match="holds no samples"):
        paired.shares(run / "none", "dpo")
