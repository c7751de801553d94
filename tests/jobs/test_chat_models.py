"""Runs on a chat model: every command asks it through its template, records say how, and another way is another run."""

import json
import shutil
from html import unescape

import polars as pl
import pytest

from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.materials import Materials
from dposcope.evaluation.conditions.measure import measure
from dposcope.evaluation.overlap import token_f1
from dposcope.interventions.edit import Edit
from dposcope.jobs.dpo.job import run_dpo
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.dpo.training_record import TrainingRecord, tuned_card
from dposcope.jobs.edit.job import run_edit
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.evaluate.job import run_evaluate
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.explain.job import run_explain
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.ingredients.data import read_data
from dposcope.jobs.pairs.job import run_pairs
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.reporter import Quiet
from dposcope.jobs.reproduce.plan import plan
from dposcope.jobs.reproduce.preset import load_preset
from dposcope.jobs.reproduce.settings import ReproduceSettings
from dposcope.jobs.tune.settings import LearningTexts, TuneSettings
from dposcope.model.batches import encode
from dposcope.model.chat.prompts import asked_how, with_chat
from dposcope.model.generate import generate
from dposcope.model.load import load
from dposcope.pairs.pairs import load_pairs
from helpers.chats import BEGINS, PLAIN, with_template
from helpers.jobs import Job, command, make_job, write_jsonl
from helpers.light import TOKENS

pytestmark = pytest.mark.usefixtures("light")

WRAP = "go on: {prompt}"
ASKED = {"system": "be kind", "wrap": WRAP, "prefill": "so {prompt}"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Job:
    """A base model."""
    return make_job(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def chat(plain, tmp_path_factory) -> str:
    """The same with a template."""
    return with_a_template(plain, tmp_path_factory.mktemp("chat") / "model", BEGINS)


def with_a_template(job: Job, folder, template: str) -> str:
    shutil.rmtree(folder, ignore_errors=True)
    with_template(load(str(job.model)), template).save_pretrained(folder)
    return str(folder)


def continuations(out, condition="none") -> list[str]:
    frame = pl.read_parquet(out / "samples.parquet")
    return frame.filter(frame["condition"] == condition)["continuation"].to_list()


def evaluated(model, job, out, reporter=None, **options):
    return run_evaluate(str(model), out, EvaluateSettings(**job.settings(**options)), reporter=reporter)


def test_what_is_measured_is_what_the_asked_model_writes(plain, chat, tmp_path):
    scores = evaluated(chat, plain, tmp_path / "run", **ASKED)
    lm = with_chat(load(chat, dtype="float32"), "on", **ASKED)
    prompts = read_data(EvaluateSettings(**plain.settings())).report.prompts
    written = [one.text for one in generate(lm, prompts, new_tokens=TOKENS)]
    assert continuations(tmp_path / "run") == written
    assert written != [one.text for one in generate(load(chat, dtype="float32"), prompts, new_tokens=TOKENS)]
    assert scores.about["asking"] == asked_how(lm)["asking"]
    assert "prompts as messages in the chat template" in (tmp_path / "run/scores.md").read_text(encoding="utf-8")


def test_without_the_template_every_number_is_that_of_the_base_model(plain, chat, tmp_path):
    off = evaluated(chat, plain, tmp_path / "off", chat="off", condition=["steer:relative=0.5"])
    base = evaluated(plain.model, plain, tmp_path / "base", condition=["steer:relative=0.5"])
    assert off.conditions == base.conditions
    assert "asking" not in off.about
    assert continuations(tmp_path / "off") == continuations(tmp_path / "base")


def test_another_way_to_ask_is_another_run(plain, chat, tmp_path):
    evaluated(chat, plain, tmp_path / "run")
    others = ({"chat": "off"}, {"system": "be kind"}, {"wrap": WRAP}, {"prefill": "{prompt}"})
    for options, told in ((options, next(iter(options))) for options in others):
        with pytest.raises(DposcopeError, match=rf"holds another run's results \(.*{told}.*\); choose") as refused:
            evaluated(chat, plain, tmp_path / "run", **options)
        assert "\n" not in str(refused.value)


class Log(Quiet):
    """What was made and what was taken."""

    def __init__(self):
        self.made, self.taken = [], []

    def stage(self, title):
        self.made.append(title)

    def reused(self, title):
        self.taken.append(title)


def test_another_template_makes_the_stages_again(plain, tmp_path):
    model = with_a_template(plain, tmp_path / "model", BEGINS)
    evaluated(model, plain, tmp_path / "run")
    before, again, changed = continuations(tmp_path / "run"), Log(), Log()
    evaluated(model, plain, tmp_path / "run", again)
    assert "Measuring: none" in again.taken
    with_a_template(plain, tmp_path / "model", PLAIN)
    evaluated(model, plain, tmp_path / "run", changed)
    assert "Measuring: none" in changed.made
    assert continuations(tmp_path / "run") != before


def test_a_template_that_is_not_there_is_told_before_anything_is_made(plain, tmp_path):
    with pytest.raises(DposcopeError, match="has no chat template; leave --chat on out"):
        evaluated(plain.model, plain, tmp_path / "run", chat="on")
    assert not (tmp_path / "run").exists()
    with pytest.raises(DposcopeError, match=r"holds \{prompt\} 0 times; write it once"):
        EvaluateSettings(wrap="go on")


def test_a_wrapper_of_the_command_line_may_name_new_lines():
    options = EvaluateSettings(wrap=r"go on:\n\n{prompt}", prefill=r"so:\n{prompt}").chat_options
    assert (options.wrap, options.prefill) == ("go on:\n\n{prompt}", "so:\n{prompt}")


def test_f1_of_the_reference_protocol_is_without_the_frame(plain, chat):
    lm = with_chat(load(chat, dtype="float32"), **ASKED)
    data = read_data(EvaluateSettings(**plain.settings(protocol="reference"))).report
    assert isinstance(data, Materials)
    passages, special = data.passages, lm.special_ids
    written = generate(lm, passages.prompts, new_tokens=TOKENS, max_prompt_tokens=32, keep="start")
    golds = [[token for token in ids if token not in special][:52] for ids in encode(lm, passages.golds)]
    heads = encode(lm, passages.prompts, max_tokens=32, keep="start")
    expected = [
        token_f1([*head, *one.ids], gold, special_ids=special)
        for head, one, gold in zip(heads, written, golds, strict=True)
    ]
    assert measure(lm, None, data).f1.tolist() == pytest.approx(expected)


def test_pairs_and_gains_are_made_through_the_template(plain, chat, tmp_path):
    common = {"dtype": "float32", "device": "cpu", **ASKED}
    sampled = {"scorer": "helpers.jobs:softness", "pairing": "extremes", "min_gap": 0.0, "use": "all", "samples": 4}
    settings = PairsSettings(method="sample", prompts=str(plain.prompts), new_tokens=6, **sampled, **common)
    made = run_pairs(chat, tmp_path / "pairs.jsonl", settings)
    lm = with_chat(load(chat, dtype="float32"), **ASKED)
    assert made.facts["model"]["asking"] == asked_how(lm)["asking"]
    pairs = load_pairs(tmp_path / "pairs.jsonl")
    assert set(pairs.prompts) <= {json.loads(line)["prompt"] for line in plain.prompts.read_text().splitlines()}
    off = run_pairs(chat, tmp_path / "off.jsonl", settings.model_copy(update={"chat": "off", **dict.fromkeys(ASKED)}))
    assert "asking" not in off.facts["model"]
    assert load_pairs(off.path).preferred != pairs.preferred

    learned = {"pairs": str(made.path), "learn_text": str(plain.neutral), "train": "gains", "max_examples": 8}
    learned |= {"validation": 2, "window_tokens": 12, "window_pool": 9, "max_prompt_tokens": 16}
    learned |= {"max_completion_tokens": 16}
    run = run_dpo(chat, tmp_path / "dpo", DpoSettings(**learned, **common))
    assert TrainingRecord.load(tmp_path / "dpo/training.json") == run.record
    assert {"asking": run.record.asking} == asked_how(lm)
    assert Edit.load(tmp_path / "dpo/edit").about["asking"] == run.record.asking
    assert "- Prompts are messages in the model's chat template." in tuned_card(run.record)
    with pytest.raises(DposcopeError, match=r"holds another run's results \(.*wrap"):
        run_dpo(chat, tmp_path / "dpo", DpoSettings(**(learned | common | {"wrap": None})))


@pytest.mark.slow
def test_the_report_and_the_edit_say_how_the_model_was_asked(plain, chat, tmp_path):
    run = run_edit(chat, tmp_path / "edit", EditSettings(**plain.settings(alpha=0.3, **ASKED)))
    told = (
        "Prompts are messages in the model's chat template, with the system prompt “be kind”, as “go on: {prompt}”, "
        "and answers begin with “so {prompt}”."
    )
    assert told in unescape((tmp_path / "edit/report.html").read_text(encoding="utf-8"))
    lm = with_chat(load(chat, dtype="float32"), **ASKED)
    assert run.edit.about["asking"] == asked_how(lm)["asking"]
    options = plain.settings(neurons_only=True, folds=0, seeds=0, bootstrap=False, **ASKED)
    explained = run_explain(chat, str(tmp_path / "edit/model"), tmp_path / "explain", ExplainSettings(**options))
    assert told in unescape((tmp_path / "explain/report.html").read_text(encoding="utf-8"))
    assert explained.scores.about["asking"] == run.edit.about["asking"]


def test_chat_data_is_imported_and_what_is_left_out_is_told(capsys, tmp_path):
    rows = [
        {"prompt": "who", "completion": text, "label": good} for text, good in (("a", True), ("b", False), ("c", 0))
    ]
    file = write_jsonl(tmp_path / "kto.jsonl", rows)
    told = command(capsys, "pairs", "import", file, "--out", tmp_path / "pairs.jsonl")
    assert "1 pair of the format kto; left out: 0 identical, 0 blank, 1 without a better and a worse answer" in told.out
    refused = command(capsys, "pairs", "check", file, "--chat", "on")
    assert refused.code == 2
    assert "--chat is for --logppl; give that, or leave --chat out" in refused.err


def test_tune_and_reproduce_ask_alike_in_every_step(tmp_path):
    settings = TuneSettings(chat="on", **ASKED)
    texts = LearningTexts(tmp_path / "pairs.jsonl", tmp_path / "neutral.jsonl", None)
    for made in (settings.of_pairs(tmp_path / "prompts.jsonl"), settings.of_gains(1.0, texts, None)):
        assert made.chat_options == settings.chat_options
    preset = load_preset("cpu-gemma-3-270m")
    for step in plan("gemma-3-270m", tmp_path / "out", preset, ReproduceSettings(chat="on", **ASKED)):
        assert step.settings.chat_options == settings.chat_options
    for step in plan("smollm2-135m-instruct", tmp_path / "out", load_preset("cpu-smollm2-135m"), ReproduceSettings()):
        assert step.settings.chat == "off"
