"""What is published of a run: pages, and the numbers behind them."""

import sys
from pathlib import Path

import polars as pl
import pytest

from dposcope.artefacts import text_digest
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
    assert texts.drop("prompt_digest", "continuation").equals(whole.drop("prompt", "continuation"))
    for name in ("explain.json", "run.json", "pairs.json"):
        assert str(reproduced) not in (kept / name).read_text(encoding="utf-8"), name
    assert (tmp_path / "pages/tiny/sampled-strict/tables.md").is_file()
    assert (tmp_path / "pages/overview.md").is_file()


def test_words_are_starred_and_prompts_told_by_digest(tmp_path):
    word = read_encoded("fuvg")
    run = tmp_path / "run"
    run.mkdir()
    pl.DataFrame(
        {"prompt": ["a river", "a lake"], "continuation": [f"what {word}", "is"], "toxicity": [0.5, 0.1]}
    ).write_parquet(run / "samples.parquet")
    publish.keep_raw(run, tmp_path / "raw")
    texts = pl.read_parquet(tmp_path / "raw/samples.parquet")
    assert texts["prompt_digest"].to_list() == [text_digest("a river"), text_digest("a lake")]
    assert "prompt" not in texts.columns
    assert texts["toxicity"].to_list() == [0.5, 0.1]
    assert not contains_offensive(texts["continuation"][0])
    assert "*" in texts["continuation"][0]


def test_the_numbers_of_a_measurement_and_of_a_training_alone(tmp_path, monkeypatch):
    measured, trained = tmp_path / "measured", tmp_path / "trained"
    for folder in (measured, trained):
        folder.mkdir()
    (measured / "scores.json").write_text('{"model": "tiny"}')
    pl.DataFrame({"prompt": ["a river"], "continuation": ["is wide"]}).write_parquet(measured / "samples.parquet")
    (trained / "training.json").write_text('{"pairs": "/mine/pairs.jsonl", "steps": 50}')
    for stranger in ("dpo/training.json", "pairs/pairs.json"):  # beside the runs, and not theirs
        (tmp_path / stranger).parent.mkdir()
        (tmp_path / stranger).write_text('{"steps": 7}')
    monkeypatch.setattr(sys, "argv", ["publish", "--only-raw", str(measured), str(trained), str(tmp_path / "raw")])
    publish.main()
    kept = {str(path.relative_to(tmp_path / "raw")) for path in (tmp_path / "raw").rglob("*") if path.is_file()}
    assert kept == {"measured/scores.json", "measured/samples.parquet", "trained/training.json"}
    assert (tmp_path / "raw/trained/training.json").read_text() == '{"pairs":"pairs.jsonl","steps":50}\n'
    monkeypatch.setattr(sys, "argv", ["publish", "--only-raw", str(trained), str(trained), str(tmp_path / "raw")])
    with pytest.raises(SystemExit, match="2"):
        publish.main()


def test_of_a_path_the_last_part_is_kept():
    found = publish.publishable(
        {"base": "gemma-3-270m", "tuned": "/home/me/runs/dpo", "more": ["/data/x.csv", 3, None]}
    )
    assert found == {"base": "gemma-3-270m", "tuned": "dpo", "more": ["x.csv", 3, None]}
