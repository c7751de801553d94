"""A redesign leaves the numbers as they were."""

import json

import polars as pl
import pytest

from helpers.unchanged import artefacts, differences, machine, recorded, run_jobs


@pytest.mark.slow
def test_the_numbers_of_four_small_jobs_are_as_recorded(tmp_path, reproduced):
    where, held = recorded()
    assert differences(run_jobs(tmp_path, reproduced), held, exact=where == machine()) == []


def now(folder):
    return dict(artefacts(folder))


def held(folder):
    return {name: found.artefact for name, found in artefacts(folder)}


def test_a_number_that_moved_is_told(tmp_path):
    (tmp_path / "scores.json").write_text('{"edit": {"toxicity": [0.25, 0.5]}, "text": "a", "seconds": 3}')
    before = held(tmp_path)
    (tmp_path / "scores.json").write_text('{"edit": {"toxicity": [0.25, 0.500000001]}, "text": "b", "seconds": 4}')
    after = now(tmp_path)
    assert differences(after, before, exact=False) == []
    assert differences(after, before, exact=True) == ["scores.json:  off by 0.0e+00"]
    (tmp_path / "scores.json").write_text('{"edit": {"toxicity": [0.25, 0.6]}}')
    assert differences(now(tmp_path), before, exact=False) == ["scores.json: /edit/toxicity off by 2.0e-01"]
    (tmp_path / "scores.json").write_text('{"edit": {"toxicity": [0.25]}}')
    assert differences(now(tmp_path), before, exact=False) == ["scores.json: other places or counts"]
    (tmp_path / "scores.json").write_text('{"other": {"toxicity": [0.25, 0.5]}}')
    assert differences(now(tmp_path), before, exact=False) == ["scores.json: other places or counts"]
    assert differences({}, before, exact=False) == ["scores.json: missing"]


def test_a_difference_is_as_exact_as_what_it_was_taken_from(tmp_path):
    def write(logppl, difference):
        scores = {"conditions": {"a": {"logppl": {"mean": logppl}}}}
        scores["against_none"] = {"a": {"difference": {"logppl": {"mean": difference}}}}
        (tmp_path / "scores.json").write_text(json.dumps(scores))

    write(6.8, 0.0001)
    before = held(tmp_path)
    write(6.8, 0.0002)
    assert differences(now(tmp_path), before, exact=False) == []
    assert differences(now(tmp_path), before, exact=True) != []
    write(6.8, 0.001)
    [line] = differences(now(tmp_path), before, exact=False)
    assert "/against_none/a/difference/logppl/mean off by 1.3e-04" in line
    write(6.801, 0.0001)
    [line] = differences(now(tmp_path), before, exact=False)
    assert "/conditions/a/logppl/mean off by 1.5e-04" in line


def test_more_may_stand_beside_what_was_recorded(tmp_path):
    """Files, keys, columns and rows, wherever they stand; what was recorded is compared to the bit."""
    conditions, means = ["none", "none", "edit", "edit"], [0.25, 0.5, 0.125, None]
    pl.DataFrame({"condition": conditions, "mean": means, "n": [3, 4, 3, 4]}).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "scores.json").write_text('{"edit": {"toxicity": 0.25}}')
    before = held(tmp_path)
    (tmp_path / "new.json").write_text('{"x": 1}')
    (tmp_path / "scores.json").write_text('{"edit": {"toxicity": 0.25, "relevance": 2.0}, "ideal": {"toxicity": 0.5}}')
    more = {
        "condition": ["none", "none", "none", "edit", "edit", "ideal"],
        "mean": [0.25, 9.0, 0.5, 0.125, None, 7.0],
        "n": [3, 4, 4, 3, 4, 1],
        "kept": [1.0] * 6,
    }
    pl.DataFrame(more).write_parquet(tmp_path / "a.parquet")
    assert differences(now(tmp_path), before, exact=True) == []
    moved = {**more, "mean": [0.25, 9.0, 0.5, 0.125000001, None, 7.0]}
    pl.DataFrame(moved).write_parquet(tmp_path / "a.parquet")
    assert differences(now(tmp_path), before, exact=True) == ["a.parquet:  off by 0.0e+00"]
    assert differences(now(tmp_path), before, exact=False) == []
    pl.DataFrame(more).head(4).write_parquet(tmp_path / "a.parquet")
    assert differences(now(tmp_path), before, exact=False) == ["a.parquet: other places or counts"]
    pl.DataFrame({**more, "condition": ["none"] * 6}).write_parquet(tmp_path / "a.parquet")
    assert differences(now(tmp_path), before, exact=True) == ["a.parquet:  off by 0.0e+00"]


def test_more_entries_may_stand_in_a_list(tmp_path):
    def write(*claims):
        (tmp_path / "explain.json").write_text(json.dumps({"claims": [{"value": a, "low": b} for a, b in claims]}))

    write((0.5, None), (0.25, 0.125))
    before = held(tmp_path)
    write((9.0, 8.0), (0.5, None), (7.0, None), (0.25, 0.125))
    assert differences(now(tmp_path), before, exact=True) == []
    write((9.0, 8.0), (0.5, None), (0.26, 0.125))
    assert differences(now(tmp_path), before, exact=False) == ["explain.json: other places or counts"]


def test_gaps_in_texts_do_not_hide_rows(tmp_path):
    rows = {"value": [1.0, None, 2.0], "here": ["a", None, "b"]}
    pl.DataFrame(rows).write_parquet(tmp_path / "a.parquet")
    before = held(tmp_path)
    more = {"value": [1.0, 5.0, None, 2.0], "here": ["a", None, None, "b"]}
    pl.DataFrame(more).write_parquet(tmp_path / "a.parquet")
    assert differences(now(tmp_path), before, exact=True) == []
    pl.DataFrame({**more, "value": [1.0, 5.0, None, 3.0]}).write_parquet(tmp_path / "a.parquet")
    assert differences(now(tmp_path), before, exact=False) != []
