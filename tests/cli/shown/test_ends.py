"""What a run says when it is done."""

import json
import math
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest

from dposcope.cli.app import app
from dposcope.cli.shown.ends import (
    Rewritten,
    most_changed,
    next_chat,
    next_dpo,
    next_edit,
    next_evaluate,
    next_explain,
    say_effect,
    say_texts,
)
from dposcope.evaluation.conditions.scores import LEAST_BELOW_CHANCE, Scores
from dposcope.evaluation.statistics.comparisons import wilson
from dposcope.evaluation.statistics.intervals import Difference, Estimate
from dposcope.jobs.edit.settings import EditSettings
from helpers.jobs import Job, command, make_job

pytestmark = pytest.mark.usefixtures("light")


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs") / "an edit"


@pytest.fixture
def told(job, out, capsys) -> str:
    """What the command says; the second time it is made of what lies there."""
    found = command(capsys, "edit", job.model, "--out", out, *job.flags(alpha=0.9, ablate=2.0))
    assert found.code == 0, found.err
    return found.out


@pytest.fixture
def scores(told, out) -> Scores:
    return Scores.from_json(json.loads((out / "scores.json").read_text()))


def test_an_edit_ends_with_effect_cost_texts_and_places(told, scores, out):
    lines = told.splitlines()
    against = scores.against_none["edit"]
    effect = next(line for line in lines if line.startswith("effect: "))
    assert f"{against.toxicity_ratio}; 12 prompts" in effect
    neutral, harmless = against.differences["logppl"], against.differences["harmless_logppl"]
    cost = next(line for line in lines if line.startswith("cost: "))
    assert f"log-perplexity {neutral} on neutral text; {harmless} on harmless text; F1 " in cost
    assert told.count("before: ") == told.count("after:  ") == 3
    assert f"model:   {out / 'model'}" in lines
    assert f"report:  {out / 'report.html'}" in lines
    assert len(lines) <= 20


def test_the_next_commands_run_as_printed(told, job, out):
    *_, chat, line = told.splitlines()
    assert shlex.split(chat) == ["next:", "dposcope", "chat", str(out)]
    assert line.startswith("next:    dposcope explain ")
    assert "--neurons-only" in line
    words = shlex.split(line.removeprefix("next:    "))
    assert words[2:4] == [str(job.model), f"edit:{out}"]
    assert words[words.index("--prompts") + 1] == str(job.prompts)
    assert "--max-windows" not in words
    command_, _, _ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
    assert command_.__name__ == "explain"


def test_texts_are_those_whose_score_fell_most(told, out):
    table = pl.read_parquet(out / "samples.parquet")
    before, after = (table.filter(pl.col("condition") == name)["toxicity"].to_list() for name in ("none", "edit"))
    falls = sorted((one - other for one, other in zip(before, after, strict=True)), reverse=True)
    shown = most_changed(out, "edit")
    scored = {row["continuation"]: row["toxicity"] for row in table.to_dicts()}
    assert [scored[one.before] - scored[one.after] for one in shown] == pytest.approx(falls[:3])
    assert shown[0].prompt in table["prompt"].to_list()


@pytest.mark.parametrize("after", [("b", 0.5), ("c", 0.5), ("c", 0.6)])
def test_where_no_score_fell_it_says_so(tmp_path, capsys, after):
    rows = [
        {"condition": name, "row": 0, "prompt": "a", "continuation": text, "toxicity": score}
        for name, (text, score) in (("none", ("b", 0.5)), ("x", after))
    ]
    pl.DataFrame(rows).write_parquet(tmp_path / "samples.parquet")
    say_texts(most_changed(tmp_path, "x"), raw=False)
    assert capsys.readouterr().out == "texts:   none scores lower than before\n"


@pytest.mark.parametrize("nothing", ["", " \n"])
def test_a_text_without_a_word_is_told_as_nothing(nothing):
    *_, after = Rewritten("a", "b", nothing).lines(raw=True)
    assert after == "    after:  (nothing)"


def test_a_random_model_gets_no_verdict(told, scores):
    """The tiny job's model knows nothing: its log-perplexity is that of a guess."""
    chance = math.log(scores.vocabulary)
    assert scores.no_verdict is not None
    assert "This model predicts no text, as with random weights" in told
    assert f"{scores.vocabulary:,} tokens has {chance:.2f}. No verdict." in told
    base = scores.conditions["none"]
    for logppl, judged in ((chance - LEAST_BELOW_CHANCE - 0.01, True), (chance - LEAST_BELOW_CHANCE + 0.01, False)):
        measured = base | {"logppl": replace(base["logppl"], mean=logppl)}
        other = replace(scores, conditions=scores.conditions | {"none": measured})
        assert (other.no_verdict is None) == judged
    assert replace(scores, vocabulary=None).no_verdict is None


@pytest.mark.parametrize(
    ("base", "difference", "said"),
    [
        (0.0, Difference(0.0, 0.0, 0.0, 12), "the scorer finds no toxicity in the plain model's texts"),
        (0.0, Difference(0.02, -0.01, 0.05, 12), "may be chance"),
        (0.5, Difference(-0.1, -math.inf, math.inf, 3), "3 prompts are too few for an interval"),
        (0.5, Difference(-0.1, -math.inf, math.inf, 1), "No effect is shown: 1 prompt is too few for an interval"),
        (0.5, Difference(-0.1, -0.3, 0.1, 12), "may be chance"),
        (0.5, Difference(-0.1, -0.3, -0.01, 12, 0.01), None),
        (0.5, Difference(-0.1, -0.3, -0.01, 12, 0.01, 0.05), None),
        (0.5, Difference(-0.1, -0.3, -0.01, 12, 0.01, 0.06), "may be chance: the sign-flip test has p = 0.060"),
    ],
)
def test_a_reason_where_nothing_was_found(scores, capsys, base, difference, said):
    conditions = scores.conditions | {"none": scores.conditions["none"] | {"toxicity": Estimate(base, base, base, 12)}}
    found = scores.against_none["edit"]
    against = {"edit": replace(found, differences=found.differences | {"toxicity": difference})}
    capsys.readouterr()
    say_effect(replace(scores, conditions=conditions, against_none=against, vocabulary=None), "edit")
    page = capsys.readouterr().out
    assert ("No effect" in page) == (said is not None)
    assert said is None or said in " ".join(page.split())


def test_a_cost_on_few_texts_is_told_with_their_number(scores, capsys):
    found = scores.against_none["edit"]
    one = Difference(0.09, -math.inf, math.inf, 1)
    for differences, told in (
        (found.differences | {"harmless_logppl": one}, "; +0.090 (n = 1, no interval) on harmless text; "),
        ({name: value for name, value in found.differences.items() if name != "harmless_logppl"}, None),
    ):
        capsys.readouterr()
        say_effect(replace(scores, against_none={"edit": replace(found, differences=differences)}), "edit")
        (cost,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("cost: ")]
        assert (told or " on neutral text; F1 ") in cost
        assert ("harmless" in cost) == (told is not None)


def test_new_pairs_lead_to_training(capsys, tmp_path):
    next_dpo("tiny", tmp_path / "p.jsonl", tmp_path / "p.harmless.jsonl")
    words = shlex.split(capsys.readouterr().out.removeprefix("next:"))
    assert words[-2:] == ["--out", str(tmp_path / "p-dpo")]
    assert words[words.index("--harmless") + 1] == str(tmp_path / "p.harmless.jsonl")


def test_a_perfect_share_of_few_has_a_wide_interval():
    few, many = wilson(1.0, 20), wilson(1.0, 2000)
    assert (few.mean, few.high, few.n) == (1.0, 1.0, 20)
    assert few.low == pytest.approx(20 / (20 + 1.959964**2), rel=1e-5)
    assert few.low < many.low


def test_evaluate_says_its_effect_only_of_one_condition(job, tmp_path, capsys):
    flags = ["--condition", "ablate:weight=1", *job.flags()]
    one = command(capsys, "evaluate", job.model, "--out", tmp_path / "one", *flags).out
    assert re.search(r"^effect: ", one, re.MULTILINE)
    assert re.search(r"^next:    dposcope edit ", one, re.MULTILINE)
    two = command(capsys, "evaluate", job.model, "--out", tmp_path / "one", *flags, "--condition", "steer:alpha=1").out
    assert not re.search(r"^effect: ", two, re.MULTILINE)


def test_a_quick_look_says_how_it_becomes_whole(job, out, told, tmp_path, capsys):
    asked = [job.model, f"edit:{out}", "--out", tmp_path / "quick", "--seeds", "0", "--folds", "0", *job.flags()]
    quick = command(capsys, "explain", *asked, "--neurons-only")
    assert quick.code == 0, quick.err
    assert quick.out.splitlines()[-1].startswith("next:    the same command without --neurons-only")


NEXT: dict[str, Callable[[Path, EditSettings], None]] = {
    "chat": next_chat,
    "dpo": lambda out, settings: next_dpo("m", out / "p.jsonl", None, asked=settings),
    "edit": lambda out, settings: next_edit("m", out, settings),
    "evaluate": lambda out, settings: next_evaluate("m", "model:t", out, asked=settings),
    "explain": lambda out, settings: next_explain("m", "t", out, settings),
}


@pytest.mark.parametrize("name", NEXT)
@pytest.mark.parametrize(
    "given",
    [{"chat": "off"}, {"system": "Be brief.\nBe kind.", "wrap": "Go on:\n{prompt}"}, {"prefill": "{prompt}"}, {}],
)
def test_the_next_command_asks_a_chat_model_alike(name, given, tmp_path, capsys):
    settings = EditSettings(split="same", **given)
    NEXT[name](tmp_path / "out", settings)
    (line,) = capsys.readouterr().out.splitlines()
    words = shlex.split(line)[2:]
    assert words[0] == name
    found, _, _ = app.parse_args(words, exit_on_error=False, print_error=False)
    assert found.__name__ == name
    flags = dict(pairwise(words))
    read = EditSettings(
        **{one: flags[f"--{one}"] for one in ("chat", "system", "wrap", "prefill") if f"--{one}" in flags}
    )
    assert read.chat_options == settings.chat_options
    assert flags.get("--split") == ("same" if name in ("edit", "explain") else None)
