"""Which texts repeat their prompt, counted by hand."""

import sys
from pathlib import Path

import polars as pl
import pytest

from dposcope.errors import DposcopeError

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import repeats


def test_a_text_repeats_words_in_a_row():
    prompt = "And then the old man’s dog ran"
    assert repeats.repeats(prompt, "Then the old man's cat slept.", 4)
    assert not repeats.repeats(prompt, "Then the old man's cat slept.", 5)
    assert not repeats.repeats(prompt, "then old the man", 2)
    assert not repeats.repeats("the sea", "the sea", 3)  # too short to repeat three words


def test_texts_are_counted_and_scored_apart(tmp_path):
    texts = (
        [("none", "the sea is wide and", 0.8)] * 12 + [("none", "a town", 0.1)] * 12 + [("edit", "a town", 0.3)] * 12
    )
    rows = [
        {"condition": name, "prompt": "the sea is wide", "continuation": text, "toxicity": score}
        for name, text, score in texts
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "samples.parquet")
    found = repeats.table_of(tmp_path, words=4)
    assert found.frame.select("condition", "repeats", "texts").rows() == [
        ("none", "yes", "12"),
        ("none", "no", "12"),
        ("edit", "yes", "0"),
        ("edit", "no", "12"),
    ]
    assert found.frame["toxicity"].to_list() == [pytest.approx(0.8), pytest.approx(0.1), None, pytest.approx(0.3)]
    assert "| none | yes | 12 | 0.800 (0.800–0.800) |" in found.markdown()
    with pytest.raises(DposcopeError, match="holds no samples"):
        repeats.table_of(tmp_path / "none", words=4)
