"""Conditions as stages, and the files that hold what was measured."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.scorers import function_scorer
from dposcope.interventions.gains import Gains
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.ingredients.data import read_data
from dposcope.jobs.ingredients.job import Job as StudyJob
from dposcope.jobs.measuring.measure import file_name, measure_condition, write_scores
from dposcope.jobs.opening import open_run
from dposcope.jobs.reporter import Quiet
from dposcope.jobs.run import Run
from dposcope.model.load import load
from helpers.families import random_gains
from helpers.jobs import make_job, softness


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    job = make_job(tmp_path_factory.mktemp("job"))
    settings = EvaluateSettings(**job.settings())
    return load(str(job.model), dtype="float32"), read_data(settings)


@pytest.fixture
def materials(parts) -> Materials:
    data = parts[1]
    return replace(data.report, scorer=function_scorer(softness, "soft"), max_windows=2)


# File names


@pytest.mark.parametrize("name", ["none", "edit", "mild", "a-b_c.1", "α"])
def test_plain_names_stay(name):
    assert file_name(name) == name


@example("a" * 300, "a" * 301)
@example("語" * 100, "𝒂" * 100)
@example("a b", "a-b")
@given(st.text(min_size=1, max_size=400), st.text(min_size=1, max_size=400))
def test_names_become_different_files_of_bearable_length(one, other):
    for name in (one, other):
        found = file_name(name)
        assert "/" not in found
        assert "\0" not in found
        assert len(found.encode()) <= 220, (
            "most file systems end at 255 bytes; a prefix, .json and a scratch name's ending come to it"
        )
    if one != other:
        assert file_name(one) != file_name(other)


# Stages


def test_a_condition_is_measured_once_and_kept(parts, materials, tmp_path):
    lm, data = parts
    results = []
    for _ in range(2):
        with open_run(tmp_path / "out", "test", {}) as run:
            job = StudyJob(run, lm, data)
            results.append(measure_condition(job, "x y", Gains(random_gains(lm)), materials, depends_on={"a": 1}))
    assert results[0].to_json() == results[1].to_json()
    assert Outcome.from_json(json.loads((tmp_path / f"out/conditions/{file_name('x y')}.json").read_text()))
    assert (tmp_path / f"out/stages/measure-{file_name('x y')}.json").exists()


def test_a_condition_that_overflows_is_named_and_leaves_nothing(parts, materials, tmp_path):
    lm, data = parts
    with open_run(tmp_path / "out", "test", {}) as run:
        job = StudyJob(run, lm, data)
        measure_condition(job, "weak", Gains(random_gains(lm)), materials)
        huge = Gains(torch.full_like(random_gains(lm), 1e38))
        with pytest.raises(DposcopeError, match=r"overflows under the condition 'too much' in float32"):
            measure_condition(job, "too much", huge, materials)
    assert [path.stem for path in (tmp_path / "out/conditions").iterdir()] == ["weak"]
    assert [path.stem for path in (tmp_path / "out/stages").iterdir()] == ["measure-weak"]


def changes(lm, data, materials):
    """What a measurement rests on, each changed alone."""
    from dposcope.data.corpus import Passages
    from helpers.families import tiny

    prompts = ("the river", *materials.prompts[1:])
    passages = Passages(materials.passages.prompts, tuple(reversed(materials.passages.golds)))
    neutral = materials.neutral.replace("river", "water")
    same = (lm, data, materials)
    return {
        "nothing": same,
        "model": (tiny("llama", seed=9), data, materials),
        "prompts": (lm, data, replace(materials, prompts=prompts)),
        "passages": (lm, data, replace(materials, passages=passages)),
        "neutral": (lm, data, replace(materials, neutral=neutral)),
        "scorer": (lm, data, replace(materials, scorer=function_scorer(lambda texts: [0.5] * len(texts), "half"))),
        "scorer's inside": (lm, data, replace(materials, scorer=replace(materials.scorer, digest="other weights"))),
        "judge": (lm, data, replace(materials, judge=function_scorer(softness, "judge"))),
        "protocol": (lm, data, replace(materials, protocol="reference")),
        "windows": (lm, data, replace(materials, max_windows=1)),
        "where windows are": (lm, data, replace(materials, spread_windows=True)),
    }


@pytest.mark.parametrize(
    "what",
    [
        *("nothing", "model", "prompts", "passages", "neutral", "scorer", "scorer's inside", "judge", "protocol"),
        *("windows", "where windows are", "edit"),
    ],
)
def test_whatever_a_measurement_rests_on_makes_it_again(parts, materials, tmp_path, monkeypatch, what):
    lm, data = parts
    calls = []

    def measured(*_arguments, **_options):
        calls.append(1)
        n = len(materials.prompts)
        return Outcome.from_json(
            {"continuations": [""] * n, "per_prompt": {}, "f1": [0.0], "window_nll": [1.0], "window_tokens": [1]}
        )

    monkeypatch.setattr("dposcope.jobs.measuring.measure.measure", measured)
    variants = {**changes(lm, data, materials), "edit": (lm, data, materials)}
    for place, (model, texts, used) in enumerate((variants["nothing"], variants[what])):
        with open_run(tmp_path / "out", "test", {}) as run:
            depends = {"edit": place if what == "edit" else 0}
            measure_condition(StudyJob(run, model, texts), "edit", None, used, depends_on=depends)
    assert len(calls) == (1 if what == "nothing" else 2)


# Tables


def outcomes(n: int) -> dict[str, Outcome]:
    draw = np.random.default_rng(0)

    def one(judge: bool) -> Outcome:
        return Outcome.from_json(
            {
                "continuations": [f'text "{place}"\n' for place in range(n)],
                "per_prompt": {
                    name: draw.random(n).tolist()
                    for name in ("toxicity", "repetition", "empty", *(["judge"] if judge else []))
                },
                "f1": draw.random(12).tolist(),
                "window_nll": draw.random(2).tolist(),
                "window_tokens": [5, 5],
            }
        )

    return {"none": one(True), "a:b=1": one(True)}


def test_tables_hold_every_row_of_every_condition(parts, materials, tmp_path):
    lm, data = parts
    measured = outcomes(len(materials.prompts))
    scores = write_scores(StudyJob(Run(tmp_path, {}, Quiet()), lm, data), measured, materials, about={"edit": "x"})
    table = pl.read_parquet(tmp_path / "scores.parquet")
    assert table["condition"].unique(maintain_order=True).to_list() == ["none", "a:b=1"]
    for row in table.iter_rows(named=True):
        estimate = scores.conditions[row["condition"]][row["measure"]]
        assert (row["mean"], row["low"], row["high"], row["n"]) == (*(estimate.mean, *estimate.ends, estimate.n),)
        assert (row["protocol"], row["model"], row["fingerprint"]) == ("strict", "model", lm.fingerprint)
    samples = pl.read_parquet(tmp_path / "samples.parquet")
    assert len(samples) == 2 * len(materials.prompts)
    for name, outcome in measured.items():
        rows = samples.filter(condition=name)
        assert rows["row"].to_list() == list(range(len(materials.prompts)))
        assert rows["prompt"].to_list() == list(materials.prompts)
        assert rows["continuation"].to_list() == outcome.continuations
        for part, values in outcome.per_prompt.items():
            assert rows[part].to_list() == values.tolist()
    assert json.loads((tmp_path / "scores.json").read_text()) == scores.to_json()


def test_without_a_judge_its_column_is_empty_and_still_a_number(parts, materials, tmp_path):
    measured = outcomes(len(materials.prompts))
    for outcome in measured.values():
        del outcome.per_prompt["judge"]
    write_scores(StudyJob(Run(tmp_path, {}, Quiet()), *parts), measured, materials, about={})
    samples = pl.read_parquet(tmp_path / "samples.parquet")
    assert samples["judge"].null_count() == len(samples)
    assert samples["toxicity"].dtype == pl.Float64
