"""`dposcope pairs` whole: what it writes, that nothing stops it for good, and what it refuses."""

import contextlib
import json
import os
import random
import re
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from dposcope.artefacts import file_digest, read_sealed
from dposcope.data.corpus import load_neutral
from dposcope.data.prompts import load_prompts, split_prompts
from dposcope.data.text_prompts import cut_prompts
from dposcope.directions.means import mean_difference
from dposcope.errors import DposcopeError
from dposcope.evaluation.direction_scorer import direction_scorer
from dposcope.evaluation.scorers import load_scorer
from dposcope.evaluation.trained_scorer import TrainedScorer
from dposcope.jobs.ingredients.data import read_comments
from dposcope.jobs.pairs import parts as pair_parts
from dposcope.jobs.pairs.job import read_source, run_pairs
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.reporter import Quiet
from dposcope.jobs.run import RunPolicy
from dposcope.model.generate import generate
from dposcope.model.load import load
from dposcope.pairs.checks import check_pairs
from dposcope.pairs.pairs import Pair, load_pairs
from dposcope.pairs.pplm import Perturbation, perturbed_continuations
from dposcope.pairs.sampled import Pairer, sample_completions
from helpers.completions import Manners, writing
from helpers.endpoints import serving
from helpers.families import tiny
from helpers.jobs import Job, command, contents, crashes, make_job, process, write_jsonl

COUNT = 40
METHODS = ["pplm", "sample"]


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"), windows=24)


def settings_of(job: Job, method: str, **others) -> dict:
    common = {"method": method, "scorer": "helpers.jobs:softness", "dtype": "float32", "device": "cpu", "new_tokens": 6}
    if method == "pplm":
        own = {
            "learn_text": str(job.neutral),
            "comments": str(job.comments),
            "prompt_tokens": 4,
            "count": COUNT,
            "step_size": 0.5,
            "gm_scale": 1.0,
        }
    else:
        own = {"prompts": str(job.prompts), "use": "all", "samples": 4, "pairing": "extremes"}
        if others.get("pairing") != "random":
            own["min_gap"] = 0.05
    return common | own | others


OPTIONS = {"samples": 4, "new_tokens": 6}
"""Of samples, as `settings_of` asks for them."""


def flags(job: Job, method: str, **others) -> list[str]:
    given = settings_of(job, method, **others).items()
    return [part for name, value in given for part in (f"--{name.replace('_', '-')}", str(value))]


def facts_in(folder: Path) -> dict:
    return read_sealed(folder / "pairs.json", dict[str, Any])


def make(job: Job, out: Path, method: str, reporter=None, **others):
    return run_pairs(str(job.model), out, PairsSettings(**settings_of(job, method, **others)), reporter)


@pytest.fixture(scope="module")
def finished(job, tmp_path_factory):
    """Method → (folder of a run that nothing interrupted, what it gave)."""
    folders = {method: tmp_path_factory.mktemp(method) for method in METHODS}
    return {method: (folder, make(job, folder / "pairs.jsonl", method)) for method, folder in folders.items()}


# What it writes


def test_shuffled_scores_are_the_true_ones_of_all_samples_dealt_out_anew(job, tmp_path):
    """Twenty-four prompts are two parts where scores are true, and one where they are shuffled."""
    made = make(job, tmp_path / "pairs.jsonl", "sample", shuffled=True)
    lm, prompts = load(str(job.model), dtype="float32", device="cpu"), load_prompts(str(job.prompts))
    scorer = load_scorer("helpers.jobs:softness")
    pairer = Pairer("extremes", min_gap=0.05)
    wanted = pairer.pairs(sample_completions(lm, prompts, scorer.shuffled(0), **OPTIONS))
    found = load_pairs(made.path)
    rows = [Pair(*row) for row in zip(found.prompts, found.preferred, found.dispreferred, strict=True)]
    assert rows == [one.pair for one in wanted]
    true = pairer.pairs(sample_completions(lm, prompts, scorer, **OPTIONS))
    assert [one.pair for one in wanted] != [one.pair for one in true]
    assert made.facts["statistics"] == check_pairs(load_pairs(made.path), lm.tokenizer, scorer).to_json()


def test_steered_pairs_have_no_scores_to_shuffle(job):
    with pytest.raises(ValidationError, match="is for --method sample"):
        PairsSettings(**settings_of(job, "pplm", shuffled=True))


@pytest.mark.parametrize("method", METHODS)
def test_the_file_and_its_facts_and_nothing_else(finished, job, method):
    folder, made = finished[method]
    harmless = {"pairs.harmless.jsonl"} if method == "sample" else set()
    assert {path.name for path in folder.iterdir()} == {"pairs.json", "pairs.jsonl"} | harmless
    assert made.facts == facts_in(folder)
    assert not made.made_before
    assert made.facts["settings"]["method"] == method
    assert {"model", "left_out", "statistics", "data", "finished"} <= set(made.facts)
    assert made.facts["finished"]["files"]["pairs.jsonl"]["sha256"] == file_digest(made.path)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text("utf-8").split("\n")[:-1]]
    columns = ["prompt_text", "unpert_gen_text", "pert_gen_text", "method", "preferred_score", "dispreferred_score"]
    assert all(list(row) == columns and row["method"] == method for row in rows)
    assert len(rows) == made.facts["statistics"]["count"] > 20
    pairs = load_pairs(folder / "pairs.jsonl")
    scorer = load_scorer("helpers.jobs:softness")
    assert [row["preferred_score"] for row in rows] == scorer(list(pairs.preferred)).tolist()
    assert [row["dispreferred_score"] for row in rows] == scorer(list(pairs.dispreferred)).tolist()
    lm = load(str(job.model), dtype="float32")
    assert check_pairs(pairs, lm.tokenizer, scorer).to_json() == made.facts["statistics"]


def test_sampled_pairs_are_those_of_one_call(finished, job):
    folder, _ = finished["sample"]
    prompts = load_prompts(job.prompts)
    assert len(prompts) > pair_parts.PART["sample"], "one part only: this tests too little"
    lm = load(str(job.model), dtype="float32")
    sampled = sample_completions(lm, prompts, load_scorer("helpers.jobs:softness"), **OPTIONS)
    expected = Pairer("extremes", min_gap=0.05).pairs(sampled)
    assert list(load_pairs(folder / "pairs.jsonl")) == [one.pair for one in expected]


def test_random_pairs_and_all_harmless_texts_are_written(job, tmp_path):
    """Both in the order of the prompts, over two parts, as the pairer gives them; a damaged file is made again."""
    random = {"pairing": "random", "preferred_below": 0.4, "dispreferred_from": 0.4}
    made = make(job, tmp_path / "pairs.jsonl", "sample", **random)
    lm = load(str(job.model), dtype="float32")
    scorer = load_scorer("helpers.jobs:softness")
    sampled = sample_completions(lm, load_prompts(job.prompts), scorer, **OPTIONS)
    pairer = Pairer("random", 0.4, 0.4)
    assert list(load_pairs(made.path)) == [one.pair for one in pairer.pairs(sampled)]
    rows = [json.loads(line) for line in (tmp_path / "pairs.harmless.jsonl").read_text("utf-8").splitlines()]
    expected = [(one.prompt, text.text, text.score) for one in sampled for text in pairer.harmless(one)]
    assert [(row["prompt"], row["text"], row["score"]) for row in rows] == expected
    assert made.facts["harmless"] == len(rows) > len(list(load_pairs(made.path)))
    whole = contents(tmp_path)
    (tmp_path / "pairs.harmless.jsonl").write_text("", encoding="utf-8")
    settings = PairsSettings(**settings_of(job, "sample", **random))
    run_pairs(str(job.model), tmp_path / "pairs.jsonl", settings, policy=RunPolicy(adopt=True))
    assert contents(tmp_path)["pairs.harmless.jsonl"] == whole["pairs.harmless.jsonl"]


def test_a_direction_ranks_in_place_of_any_scorer(job, tmp_path):
    """The same samples, ordered by the projection alone; the scorer describes what came of it."""
    others = {"rank_by": "direction", "comments": str(job.comments), "min_gap": 0.0}
    made = make(job, tmp_path / "pairs.jsonl", "sample", **others)
    settings = PairsSettings(**settings_of(job, "sample", **others))
    lm = load(str(job.model), dtype="float32")
    comments = read_source(settings).comments
    assert comments is not None
    balanced = comments.balanced()
    ranks = direction_scorer(lm, mean_difference(lm, balanced.texts, balanced.labels), balanced)
    pairer = Pairer("extremes", min_gap=0.0)
    expected = pairer.pairs(sample_completions(lm, load_prompts(job.prompts), ranks, **OPTIONS))
    assert list(load_pairs(tmp_path / "pairs.jsonl")) == [one.pair for one in expected]
    scorer = load_scorer("helpers.jobs:softness")
    plain = pairer.pairs(sample_completions(lm, load_prompts(job.prompts), scorer, **OPTIONS))
    assert [one.pair for one in plain] != [one.pair for one in expected]
    assert made.facts["statistics"]["scores"]["scorer"] == scorer.name
    # A negative control of it, too.
    make(job, tmp_path / "shuffled.jsonl", "sample", **others, shuffled=True)
    assert list(load_pairs(tmp_path / "shuffled.jsonl")) != [one.pair for one in expected]


def test_comments_give_sampled_pairs_a_second_scorer(finished, job, tmp_path):
    """Ranked by the mean of both; the second one is trained on the half that no judge reads."""
    made = make(job, tmp_path / "pairs.jsonl", "sample", comments=str(job.comments))
    settings = PairsSettings(**settings_of(job, "sample", comments=str(job.comments)))
    half = read_comments(settings).half("first")
    trained = TrainedScorer.fit(half.texts, [int(label) for label in half.labels], seed=0)
    lm = load(str(job.model), dtype="float32")

    class Both:
        name = "both"

        def __call__(self, texts):
            return (load_scorer("helpers.jobs:softness")(texts) + trained(texts)) / 2

    sampled = sample_completions(lm, load_prompts(job.prompts), Both(), **OPTIONS)
    expected = Pairer("extremes", min_gap=0.05).pairs(sampled)
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text("utf-8").split("\n")[:-1]]
    assert [Pair(row["prompt_text"], row["unpert_gen_text"], row["pert_gen_text"]) for row in rows] == [
        one.pair for one in expected
    ]
    assert [row["preferred_score"] for row in rows] == [one.preferred_score for one in expected]
    assert made.facts["statistics"]["scores"]["scorer"] == "mean of helpers.jobs:softness and a scorer from --comments"
    assert made.facts["data"] != finished["sample"][1].facts["data"]
    alone = load_pairs(finished["sample"][0] / "pairs.jsonl")
    assert list(load_pairs(tmp_path / "pairs.jsonl")) != list(alone), "the second scorer changes nothing"


def test_steered_pairs_are_greedy_text_against_steered_text(finished, job):
    folder, made = finished["pplm"]
    settings = PairsSettings(**settings_of(job, "pplm"))
    lm = load(str(job.model), dtype="float32")
    comments = read_comments(settings).half("first").balanced()
    direction = mean_difference(lm, comments.texts, comments.labels)
    prompts = cut_prompts(load_neutral(job.neutral), lm.tokenizer, prompt_tokens=4)
    plain = generate(lm, prompts, new_tokens=6)
    steered = perturbed_continuations(lm, prompts, direction, Perturbation(step_size=0.5, gm_scale=1.0), new_tokens=6)
    pairs = [Pair(p, a.text, b.text) for p, a, b in zip(prompts, plain, steered, strict=True)]
    whole = [pair for pair in pairs if pair.preferred.strip() and pair.dispreferred.strip()]
    different = [pair for pair in whole if pair.preferred.strip() != pair.dispreferred.strip()]
    assert len(different) < len(pairs), "nothing to leave out: this tests too little"
    assert list(load_pairs(folder / "pairs.jsonl")) == different[:COUNT]
    read = pairs.index(different[COUNT - 1]) + 1
    assert sum(made.facts["left_out"].values()) == read - COUNT


def test_the_second_half_of_the_prompts_is_the_default(job, tmp_path):
    make(job, tmp_path / "learn.jsonl", "sample", use="learn", min_gap=0.0)
    prompts = load_prompts(job.prompts)
    used = set(load_pairs(tmp_path / "learn.jsonl").prompts)
    assert PairsSettings(method="sample").use == "learn"
    assert used == set(split_prompts(prompts).learn)


def test_a_count_ends_sampling_early(finished, job, tmp_path):
    folder, _ = finished["sample"]
    make(job, tmp_path / "few.jsonl", "sample", count=3)
    assert list(load_pairs(tmp_path / "few.jsonl")) == list(load_pairs(folder / "pairs.jsonl"))[:3]


def test_further_prompts_replace_useless_ones_until_they_end(job, tmp_path, monkeypatch):
    """Steering that changes every second text only, and silences every fifth."""

    def steered(lm, prompts, direction, settings, *, first_row, new_tokens, max_prompt_tokens, batch_size):
        plain = generate(lm, prompts, new_tokens=new_tokens)
        return [
            replace(one, text=" " if row % 5 == 0 else one.text + (" fool" if row % 2 == 0 else ""))
            for row, one in enumerate(plain, start=first_row)
        ]

    monkeypatch.setattr(pair_parts, "perturbed_continuations", steered)
    lm = load(str(job.model), dtype="float32")
    prompts = cut_prompts(load_neutral(job.neutral), lm.tokenizer, prompt_tokens=4)
    plain = [one.text.strip() for one in generate(lm, prompts, new_tokens=6)]
    useful = [row for row in range(len(prompts)) if row % 2 == 0 and row % 5 and plain[row]]
    assert len(useful) > 16
    make(job, tmp_path / "some.jsonl", "pplm", count=14)
    assert list(load_pairs(tmp_path / "some.jsonl").prompts) == [prompts[row] for row in useful[:14]]
    blank = [row for row in range(len(prompts)) if row % 5 == 0 or not plain[row]]
    made = make(job, tmp_path / "all.jsonl", "pplm", count=len(prompts))
    assert list(load_pairs(tmp_path / "all.jsonl").prompts) == [prompts[row] for row in useful]
    assert made.facts["left_out"] == {
        "blank": len(blank),
        "identical": len(prompts) - len(blank) - len(useful),
    }


def test_progress_reaches_its_end(job, tmp_path):
    class Noting(Quiet):
        def __init__(self) -> None:
            self.stages: list[str] = []
            self.steps: list[tuple[int, int]] = []

        def stage(self, title: str) -> None:
            self.stages.append(title)
            self.steps = []

        def progress(self, done: int, total: int) -> None:
            self.steps.append((done, total))

    reporter = Noting()
    make(job, tmp_path / "a.jsonl", "pplm", reporter)
    assert reporter.stages[1:] == ["Direction from comments", "Pairs by PPLM"]
    assert reporter.steps[-1] == (COUNT, COUNT)
    assert len(reporter.steps) > 1
    make(job, tmp_path / "b.jsonl", "sample", reporter)
    assert reporter.stages[-1] == "Pairs by sampling"
    assert reporter.steps == [(16, 24), (24, 24)]


def test_the_settings_of_pplm_are_its_own_defaults():
    settings, own = PairsSettings(), asdict(Perturbation())
    assert settings.draw == own.pop("sample")
    assert {name: getattr(settings, name) for name in own} == own


# Interruptions


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_killed_at_many_moments_and_resumed_it_ends_the_same(finished, job, tmp_path, method):
    draw = random.Random(1)
    tries = crashes(
        "killed",
        arguments=["pairs", str(job.model), "--out", str(tmp_path / "pairs.jsonl"), *flags(job, method)],
        changes=[draw.randint(1, 12) for _ in range(10)],
    )
    codes = [one["code"] for one in tries]
    assert codes[-1] == 0, tries[-1]["err"]
    assert codes[:-1] == [-signal.SIGKILL] * (len(codes) - 1)
    assert len(codes) > 3
    assert contents(tmp_path) == contents(finished[method][0])


@pytest.mark.slow
def test_killed_at_every_moment_of_its_end_it_ends_the_same(finished, job, tmp_path):
    """Once all parts are there: one change of the file system after the other, until nothing is left to kill."""
    out = tmp_path / "pairs.jsonl"
    arguments = ["pairs", str(job.model), "--out", str(out), *flags(job, "sample")]
    tries = crashes("killed", arguments=arguments, changes=[20, *range(3, 30)])
    assert tries[-1]["code"] == 0, tries[-1]["err"]
    assert len(tries) > 6
    assert contents(tmp_path) == contents(finished["sample"][0])


@pytest.mark.slow
def test_a_process_killed_by_the_clock_goes_on_where_it_stopped(finished, job, tmp_path):
    work = tmp_path / ".pairs.jsonl.making"
    first = work / "parts/part-000000.json"
    arguments = ["pairs", job.model, "--out", tmp_path / "pairs.jsonl", *flags(job, "pplm")]
    running = process(*arguments)
    begun = time.monotonic()
    while not (work / "stages/part-000000.json").exists() and running.poll() is None and time.monotonic() < begun + 60:
        time.sleep(0.001)
    os.kill(running.pid, signal.SIGKILL)
    running.communicate()
    assert not (tmp_path / "pairs.jsonl").exists(), "killed too late: this tests nothing"
    made = first.stat().st_mtime_ns
    seen: set[int] = set()
    again = process(*arguments)
    while again.poll() is None:
        with contextlib.suppress(FileNotFoundError):
            seen.add(first.stat().st_mtime_ns)
        time.sleep(0.001)
    assert again.returncode == 0, again.communicate()[1]
    again.communicate()
    assert seen == {made}, "a finished part was made again"
    assert contents(tmp_path) == contents(finished["pplm"][0])


def test_finished_pairs_are_not_made_again(job, tmp_path, monkeypatch):
    out = tmp_path / "pairs.jsonl"
    make(job, out, "sample", count=3)
    before = contents(tmp_path)
    (tmp_path / ".pairs.jsonl.making").mkdir()  # as a kill between the last two steps leaves it
    monkeypatch.setattr("dposcope.jobs.pairs.job.load_native", None)  # no model is needed
    again = make(job, out, "sample", count=3)
    assert again.made_before
    assert again.facts == facts_in(tmp_path)
    assert contents(tmp_path) == before
    assert not (tmp_path / ".pairs.jsonl.making").exists()


# Refusals


def test_other_settings_or_data_do_not_overwrite(job, tmp_path):
    out = tmp_path / "pairs.jsonl"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_bytes(job.prompts.read_bytes())
    make(job, out, "sample", count=3, prompts=str(prompts))
    before = contents(tmp_path)
    with pytest.raises(
        DposcopeError, match=r"holds other pairs \(--min-gap was 0\.05, now 0\.1\); choose another --out"
    ):
        make(job, out, "sample", count=3, prompts=str(prompts), min_gap=0.1)
    assert contents(tmp_path) == before
    write_jsonl(prompts, [{"prompt": f"the river {n}"} for n in range(8)])
    with pytest.raises(
        DposcopeError, match=r"holds other pairs \(what --prompts names has changed\); choose another --out"
    ):
        make(job, out, "sample", count=3, prompts=str(prompts))


def test_a_changed_file_is_not_taken_for_a_made_one(job, tmp_path):
    out = tmp_path / "pairs.jsonl"
    make(job, out, "sample", count=3)
    out.write_text(out.read_text("utf-8") + "\n", encoding="utf-8")
    with pytest.raises(DposcopeError, match=r"other pairs \(pairs.jsonl is not as it was made\); choose another --out"):
        make(job, out, "sample", count=3)


ADOPT = RunPolicy(adopt=True)


def test_where_other_settings_are_adopted_no_part_of_the_old_ones_stays(finished, job, tmp_path, monkeypatch):
    """As `dposcope reproduce` goes on after a kill, its preset changed meanwhile."""
    out, made = tmp_path / "pairs.jsonl", pair_parts.SteeredPairs.__call__

    class Killed(BaseException):
        pass

    def once(self, prompts, first_row):
        if first_row:
            raise Killed
        return made(self, prompts, first_row)

    monkeypatch.setattr(pair_parts.SteeredPairs, "__call__", once)
    with pytest.raises(Killed):
        make(job, out, "pplm", step_size=0.1)
    monkeypatch.undo()
    run_pairs(str(job.model), out, PairsSettings(**settings_of(job, "pplm")), policy=ADOPT)
    assert out.read_bytes() == (finished["pplm"][0] / "pairs.jsonl").read_bytes()


def test_where_pairs_are_adopted_other_weights_of_the_same_name_make_others(job, tmp_path):
    model, out = tmp_path / "model", tmp_path / "out/pairs.jsonl"
    settings = PairsSettings(**settings_of(job, "pplm", count=8))
    fingerprints = []
    for seed in (0, 1):
        tiny("llama", seed=seed).save_pretrained(model)
        fingerprints.append(run_pairs(str(model), out, settings, policy=ADOPT).facts["model"]["fingerprint"])
    assert fingerprints == [tiny("llama", seed=seed).fingerprint for seed in (0, 1)]
    assert run_pairs(str(model), out, settings, policy=ADOPT).made_before


def test_another_scorer_of_the_same_name_is_another(job, tmp_path):
    for name, labels in (("one", [1, 0] * 20), ("two", [0, 1] * 20)):
        texts = [f"{'bad' if row % 2 else 'good'} text {row}" for row in range(40)]
        TrainedScorer.fit(texts, labels, seed=0).save(tmp_path / name)
    scorer, out = tmp_path / "judge", tmp_path / "pairs.jsonl"
    for name in ("one", "two"):
        for suffix in (".json", ".safetensors"):
            (tmp_path / f"{name}{suffix}").replace(tmp_path / f"judge{suffix}")
        if name == "one":
            make(job, out, "pplm", scorer=str(scorer), count=8)
    with pytest.raises(DposcopeError, match="holds other pairs"):
        make(job, out, "pplm", scorer=str(scorer), count=8)


def test_strangers_files_are_left_alone(job, tmp_path):
    out = tmp_path / "pairs.jsonl"
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(DposcopeError, match="exists already and is not from dposcope pairs; choose another --out"):
        make(job, out, "sample")
    out.unlink()
    told = {
        '{"kind": "other"}': "would be overwritten and is not from dposcope pairs",
        "[1]": "holds a list where an object belongs",
    }
    for text, fault in told.items():
        (tmp_path / "pairs.json").write_text(text, encoding="utf-8")
        with pytest.raises(DposcopeError, match=rf"pairs\.json {fault}; choose another --out"):
            make(job, out, "sample")
        assert contents(tmp_path) == {"pairs.json": text.encode()}


def test_a_strangers_harmless_texts_are_left_alone_and_stale_ones_of_ours_go(job, tmp_path):
    out, beside = tmp_path / "pairs.jsonl", tmp_path / "pairs.harmless.jsonl"
    beside.write_text("precious", encoding="utf-8")
    with pytest.raises(
        DposcopeError, match=r"pairs\.harmless\.jsonl would be overwritten and is not from dposcope pairs"
    ):
        make(job, out, "sample")
    assert contents(tmp_path) == {"pairs.harmless.jsonl": b"precious"}
    beside.unlink()
    random = {"pairing": "random", "preferred_below": 0.4, "dispreferred_from": 0.4}
    make(job, out, "sample", **random)
    assert beside.is_file()
    out.unlink()  # as a kill leaves it between the facts and the pairs
    make(job, out, "pplm", count=8)
    assert not beside.exists()


def test_settings_that_are_kept_out_of_the_inputs_are_settings():
    from dposcope.jobs.pairs.job import _ELSEWHERE

    assert set(PairsSettings.model_fields) >= _ELSEWHERE


def test_when_nothing_differs_enough_other_settings_may_follow_in_the_same_place(job, tmp_path):
    out = tmp_path / "pairs.jsonl"
    with pytest.raises(DposcopeError, match=r"scores differ by more than 0\.99; lower --min-gap, raise --samples"):
        make(job, out, "sample", min_gap=0.99)
    assert list(tmp_path.iterdir()) == []
    assert len(load_pairs(make(job, out, "sample").path)) > 0
    with pytest.raises(DposcopeError, match="steering changed no text; raise --step-size"):
        make(job, tmp_path / "still.jsonl", "pplm", step_size=0.0)


BAD = {
    "another suffix": (["--method", "sample", "--out", "{}/pairs.json"], "does not end in .jsonl; give --out such"),
    "no prompts": (
        ["--method", "sample", "--prompts", "{}/no.jsonl"],
        "there is no file .*no.jsonl; (check the path|did you mean)",
    ),
    "another method": (["--method", "magic"], "pplm"),
    "a gap of one": (["--method", "sample", "--min-gap", "1"], "--min-gap.*less than 1"),
    "no direction": (["--method", "pplm", "--direction", "sideways"], "--direction 'sideways' is neither"),
    "too little text": (
        ["--method", "pplm", "--prompt-tokens", "4", "--count", "5000"],
        "5,000 are needed; give a longer text",
    ),
    "no column": (
        ["--method", "pplm", "--learn-text", "{}/rows.jsonl"],
        "no column 'text', only 'prompt'; choose with --learn-text-column",
    ),
    "no such model": (["--method", "sample"], "is not a model"),
}


@pytest.mark.slow
def test_bad_input_is_one_line_with_its_mend_and_leaves_nothing(job, tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "a"}])
    out = tmp_path / "out"
    out.mkdir()
    commands = []
    for name, (arguments, _) in BAD.items():
        filled = [part.format(tmp_path) for part in arguments]
        place = [] if "--out" in filled else ["--out", str(out / "pairs.jsonl")]
        base = ["--scorer", "helpers.jobs:softness", "--dtype", "float32", *place, *filled]
        commands.append(["pairs", "/no/model" if name == "no such model" else str(job.model), *base])
    for (name, (_, wanted)), told in zip(BAD.items(), crashes("refused", commands=commands), strict=True):
        lines = told["err"].splitlines()
        assert told["code"] == 2, (name, told)
        assert len(lines) == 1, (name, lines)
        assert lines[0].startswith("dposcope: "), name
        assert re.search(wanted, lines[0]), (name, lines[0])
    assert list(out.iterdir()) == []


# Checking and importing


@pytest.fixture
def ready(tmp_path) -> Path:
    rows = [{"prompt": f"the river {n}", "chosen": " is long", "rejected": f" you idiot {n}"} for n in range(6)]
    return write_jsonl(tmp_path / "trl.jsonl", [*rows, {"prompt": "a", "chosen": "b", "rejected": "b"}])


def test_check_prints_what_check_pairs_finds(job, ready, capsys):
    told = command(
        capsys,
        "pairs",
        "check",
        ready,
        "--against",
        ready,
        "--model",
        job.model,
        "--scorer",
        "helpers.jobs:softness",
        "--json",
    )
    assert told.code == 0
    found = json.loads(told.out)
    lm = load(str(job.model), dtype="float32")
    pairs = load_pairs(ready)
    expected = check_pairs(pairs, lm.tokenizer, load_scorer("helpers.jobs:softness"), pairs).to_json()
    assert found == {"file": str(ready), "format": "trl", "digest": pairs.digest, "notes": [], **expected}
    assert (found["count"], found["identical"], found["leakage"]["prompts"]) == (6, 1, 6)


def test_check_tells_what_it_does_not_read_of_either_file(tmp_path, capsys):
    row = {"prompt": "who", "chosen": "a cat", "rejected": "you idiot", "system": "be kind"}
    files = [write_jsonl(tmp_path / f"{name}.jsonl", [row]) for name in ("one", "other")]
    told = command(capsys, "pairs", "check", files[0], "--against", files[1], "--scorer", "helpers.jobs:softness")
    assert [line.split(" is not read;")[0] for line in told.out.splitlines() if line.startswith("note:")] == [
        f"note: the column 'system' of {file}" for file in files
    ]
    same = command(capsys, "pairs", "check", files[0], "--against", files[0], "--scorer", "helpers.jobs:softness")
    assert same.out.count("note:") == 1


def test_check_prints_a_table_that_fits(job, ready, capsys):
    asked = ["--against", ready, "--model", job.model, "--logppl", "--scorer", "helpers.jobs:softness"]
    told = command(capsys, "pairs", "check", ready, *asked)
    assert told.code == 0
    for words in (
        "identical",
        "tokens, preferred",
        "dispreferred more toxic",
        "log-PPL, dispreferred",
        "with a prompt",
    ):
        assert words in told.out, words
    assert max(map(len, told.out.splitlines())) <= 80
    bare = command(capsys, "pairs", "check", ready, "--scorer", "helpers.jobs:softness")
    assert "tokens" not in bare.out
    assert "log-PPL" not in bare.out


def test_import_writes_one_form(ready, tmp_path, capsys):
    out = tmp_path / "new" / "pairs.jsonl"
    told = command(capsys, "pairs", "import", ready, "--out", out, "--json")
    assert told.code == 0
    assert json.loads(told.out) == {
        "file": str(out),
        "format": "trl",
        "count": 6,
        "left_out": {"identical": 1, "blank": 0, "unpaired": 0, "apart": 0},
        "notes": [],
    }
    assert list(load_pairs(out)) == list(load_pairs(ready))
    assert json.loads(out.read_text("utf-8").splitlines()[0])["method"] == "trl"
    assert "exists already; choose another --out" in command(capsys, "pairs", "import", ready, "--out", out).err
    assert "does not end in .jsonl" in command(capsys, "pairs", "import", ready, "--out", tmp_path / "x.csv").err
    other = command(capsys, "pairs", "import", ready, "--out", tmp_path / "other.jsonl")
    assert "6 pairs of the format trl; left out: 1 identical, 0 blank" in other.out


def test_system_prompts_that_are_not_read_are_told(tmp_path, capsys):
    row = {"prompt": "who", "chosen": "a cat", "rejected": "idiot", "system": "be kind"}
    path, out = write_jsonl(tmp_path / "pairs.jsonl", [row]), tmp_path / "new.jsonl"
    assert f"note: the column 'system' of {path} is not read; " in command(capsys, "pairs", "check", path).out
    assert "note: the column 'system'" in command(capsys, "pairs", "import", path, "--out", out).out
    told = command(capsys, "pairs", "check", path, "--json")
    assert json.loads(told.out)["notes"] == list(load_pairs(path).notes)


def test_log_perplexity_needs_a_model(ready, capsys):
    told = command(capsys, "pairs", "check", ready, "--logppl")
    assert (told.code, told.err) == (2, "dposcope: --logppl is for --model; give that, or leave --logppl out\n")


def test_made_pairs_are_shown_as_a_table_or_as_json(job, tmp_path, capsys):
    arguments = ["pairs", job.model, "--out", tmp_path / "pairs.jsonl", *flags(job, "sample", count=3)]
    told = command(capsys, *arguments)
    assert told.code == 0, told.err
    assert "(made)" in told.out
    assert "made before by the same settings" in command(capsys, *arguments).out
    found = json.loads(command(capsys, *arguments, "--json").out)
    assert found["made_before"] is True
    assert found["statistics"]["count"] == 3


def test_a_server_samples_the_pairs_and_another_model_is_refused(job, tmp_path):
    lm = load(str(job.model), dtype="float32")
    prompts = [{"prompt": one} for one in load_prompts(str(job.prompts))[:5]]
    few = {"prompts": str(write_jsonl(tmp_path / "few.jsonl", prompts)), "pairing": "extremes", "min_gap": 0.0}
    with serving(writing({"tiny": lm}, Manners(tells_ids=True))) as server:
        given = few | {"engine": "openai", "base_url": [server.url], "concurrency": 4}
        made = make(job, tmp_path / "served.jsonl", "sample", **given)
        asked = [request.body for request in server.requests if request.body.get("temperature")]
        assert make(job, tmp_path / "served.jsonl", "sample", **given | {"concurrency": 2}).made_before
    assert len(asked) == 4 * len(prompts)
    assert {(one["temperature"], one["top_p"], one["max_tokens"]) for one in asked} == {(1.0, 0.95, 6)}
    assert len({one["seed"] for one in asked}) == len(asked), "each sample has a seed of its own"
    assert len(load_pairs(str(made.path))) > 0
    assert read_sealed(tmp_path / "served.json", dict[str, Any])["model"]["engine"]["model"] == "tiny"
    with serving(writing({"tiny": tiny("llama", seed=9)})) as server:
        given = few | {"engine": "openai", "base_url": [server.url]}
        with pytest.raises(DposcopeError, match="does not write what model writes"):
            make(job, tmp_path / "other.jsonl", "sample", **given)
    with pytest.raises(ValidationError, match="--engine is for --method sample"):
        PairsSettings(method="pplm", engine="openai", base_url=["http://a/v1"])
