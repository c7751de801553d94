"""Texts by rule: which rows, and that offensive words are masked."""

import sys
from pathlib import Path

import polars as pl
import pytest

from dposcope.errors import DposcopeError

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import texts

pytestmark = pytest.mark.usefixtures("light")

BAD = "".join(reversed("tihs"))


def test_every_nth_prompt_masked(tmp_path):
    rows = [
        {"condition": name, "row": row, "prompt": f"p{row}", "continuation": f"{name} {row} {BAD}"}
        for name in ("none", "edit")
        for row in range(10)
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "samples.parquet")
    table = texts.texts(tmp_path, "edit", every=4, most=2)
    assert table.frame["prompt"].to_list() == ["p0", "p4"]
    assert BAD not in table.markdown()
    with pytest.raises(DposcopeError, match="has no condition 'other'; choose from"):
        texts.texts(tmp_path, "other", every=4, most=2)
    with pytest.raises(DposcopeError, match="holds no samples"):
        texts.texts(tmp_path / "none", "edit", every=4, most=2)
