"""What is published of a run: pages, and the numbers behind them."""

import sys
from pathlib import Path

import polars as pl
import pytest

from dposcope.data.masking import contains_offensive, read_encoded
from dposcope.jobs.reproduce.finished import FinishedRun

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import publish


@pytest.mark.slow
def test_the_numbers_behind_a_page_can_be_read_again(reproduced, tmp_path, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["publish", str(reproduced), str(tmp_path / "pages"), "--raw", str(tmp_path / "raw")]
    )
    publish.main()
    run = reproduced / "tiny/sampled/explain-strict"
    kept = tmp_path / "raw/tiny/sampled/explain-strict"
    ours, theirs = FinishedRun.read(kept), FinishedRun.read(run)
    assert (ours.scores, ours.facts) == (theirs.scores, theirs.facts)
    assert [table.markdown() for table in ours.tables] == [table.markdown() for table in theirs.tables]
    for name in ("claims.parquet", "interchange.parquet", "pairs.json", "training.json"):
        assert (kept / name).is_file(), name
    texts, whole = (pl.read_parquet(folder / "samples.parquet") for folder in (kept, run))
    assert texts.drop("prompt", "continuation").equals(whole.drop("prompt", "continuation"))
    assert (tmp_path / "pages/tiny/sampled-strict/tables.md").is_file()
    assert (tmp_path / "pages/overview.md").is_file()


def test_words_are_starred_in_the_texts(tmp_path):
    word = read_encoded("fuvg")
    run = tmp_path / "run"
    run.mkdir()
    pl.DataFrame({"prompt": [f"what {word}"], "continuation": ["a river"], "toxicity": [0.5]}).write_parquet(
        run / "samples.parquet"
    )
    publish.keep_raw(run, tmp_path / "raw")
    texts = pl.read_parquet(tmp_path / "raw/samples.parquet")
    assert texts["continuation"].to_list() == ["a river"]
    assert not contains_offensive(texts["prompt"][0])
    assert "*" in texts["prompt"][0]
