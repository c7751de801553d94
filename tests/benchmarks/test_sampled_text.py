"""The benchmark of sampled text: favourite phrases by hand, and a whole run on a tiny model."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import dposcope as ds
from dposcope.data.prompts import load_prompts, split_prompts
from dposcope.model.generate import Sampling, generate
from helpers.families import random_gains
from helpers.jobs import make_job, refused, script, softness

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from sampled_text import favourite, main, rows_of, table

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def badness(texts):
    return np.array([1.0 * ("bad" in text) for text in texts])


def test_the_favourite_phrase_is_what_most_texts_hold():
    texts = ["I was in it, I was in it", "then I was in it", "a b c d", "a b c d e", "no"]
    assert favourite(texts) == ("a b c d", 0.4)  # as often as "i was in it", and before it in the alphabet
    assert favourite([*texts, "oh, I WAS in it!"]) == ("i was in it", 0.5)
    assert favourite(["one two three", ""]) == ("", 0.0)


def test_rows_are_against_the_plain_model_of_their_own_temperature():
    texts = {"none": ["bad bad day now", *["bad day"] * 20], "edit": ["fine day"] * 21}
    plain, edited = rows_of(0.7, texts, badness)
    assert plain.ratio is None
    assert edited.ratio.ratio == 0
    assert (plain.distinct_2, edited.distinct_2) == (3 / 23, 1 / 21)
    assert plain.repetition.mean == 0
    rows = table([plain, edited]).splitlines()[2:]
    assert rows[0].startswith("| 0.7 | none | 1.000")
    clean = rows_of(0.0, {"none": ["a b", "c d"], "edit": ["a b", "e f"]}, badness)
    assert clean[1].ratio is None
    assert table(clean).splitlines()[2].startswith("| greedy |")


@pytest.mark.slow
def test_a_whole_run(tmp_path):
    job = make_job(tmp_path / "job", windows=4)
    lm = ds.load(str(job.model), dtype="float32")
    edit = ds.Edit.of(ds.Gains(random_gains(lm)))
    edit.save(tmp_path / "run/edit")
    command = [
        *(BENCHMARKS / "sampled_text.py", str(job.model)),
        *("--condition", f"mine=edit:{tmp_path / 'run/edit'}", "--prompts", str(job.prompts), "--limit", "6"),
        *("--temperatures", "0,1", "--scorer", "helpers.jobs:softness", "--dtype", "float32"),
    ]
    done = script(*command)
    told, complaint = done.communicate()
    assert done.returncode == 0, complaint
    rows = [line.split(" | ") for line in told.splitlines()[2:]]
    assert [(row[0], row[1]) for row in rows] == [
        ("| greedy", "none"),
        ("| greedy", "mine"),
        ("| 1", "none"),
        ("| 1", "mine"),
    ]
    prompts = list(split_prompts(load_prompts(str(job.prompts))).report)[:6]
    with edit.on(lm):
        written = [one.text for one in generate(lm, prompts, new_tokens=20, sampling=Sampling(seed=0))]
    assert float(rows[3][2].split()[0]) == pytest.approx(softness(written).mean(), abs=6e-4)


def test_wrong_choices_are_told_in_a_line(tmp_path):
    job = make_job(tmp_path / "job", windows=4)
    ds.Edit.of(ds.Gains(torch.ones(2, 3))).save(tmp_path / "edit")
    command = [job.model, "--prompts", job.prompts, "--condition", "scale:alpha=0.1", "--dtype", "float32"]
    twice = [*command[:-4], *["--condition", f"mine=edit:{tmp_path / 'edit'}"] * 2]
    for wrong, told in (
        (command, "conditions that need a direction"),
        (twice, "two conditions have one name"),
        ([*command, "--limit", "0"], "argument --limit: invalid"),
        ([*command, "--temperatures", "-1"], "argument --temperatures: "),
    ):
        assert told in refused(main, *wrong)
