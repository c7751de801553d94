"""An option that has no effect beside the others is refused in one line, and taken where it has one.

Every rule of every class of settings has its case here: `dposcope.options.Only` says what a rule is.
"""

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from benchmarks.estimates import COMMANDS
from pydantic import ValidationError

from dposcope.cli.app import app
from dposcope.errors import DposcopeError
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.explain.settings import ExplainSettings
from dposcope.jobs.pairs.settings import CheckSettings, PairsSettings
from dposcope.jobs.reproduce.plan import plan
from dposcope.jobs.reproduce.preset import load_preset, preset_names
from dposcope.jobs.reproduce.settings import ReproduceSettings
from dposcope.jobs.settings import ProbeSettings, Settings
from dposcope.jobs.tune.settings import TuneSettings
from dposcope.options import Only
from dposcope.reading import parse_json
from dposcope.talk.settings import GenerateSettings
from helpers.jobs import command

LINES = {
    "edit": "edit M --out runs/x",
    "evaluate": "evaluate M --out runs/x",
    "explain": "explain M T --out runs/x",
    "tune": "tune M --out runs/x",
    "probe": "probe M --out x",
    "pairs": "pairs M --out x.jsonl",
    "pairs check": "pairs check x.jsonl",
    "dpo": "dpo M --pairs x.jsonl --out runs/x",
    "generate": "generate M",
}
SETTINGS: Mapping[str, type[Settings]] = {
    "edit": EditSettings,
    "evaluate": EvaluateSettings,
    "explain": ExplainSettings,
    "tune": TuneSettings,
    "probe": ProbeSettings,
    "pairs": PairsSettings,
    "pairs check": CheckSettings,
    "dpo": DpoSettings,
    "generate": GenerateSettings,
}
"""Command → its settings. `chat` and `serve` have fewer than `generate`, and `reproduce` has those of its steps."""


@dataclass(frozen=True)
class Case:
    """Some options of a command, with other options beside which they count for nothing, and beside which they do."""

    command: str
    what: str
    """What they are for, as the message says it."""
    nothing: str
    counts: str
    options: str
    """Each with its value."""


CASES = [
    Case("edit", "--chat on or auto", "--chat off", "--chat on", "--system S --wrap {prompt} --prefill P"),
    Case(
        "edit",
        "--comments",
        "",
        "--comments c.csv",
        "--text-column t --label-column l --positive-label yes",
    ),
    Case("edit", "--comments", "--concept toxicity", "--concept food-talk", "--label-column l"),
    Case(
        "edit",
        "--direction mean-difference or probe",
        "--direction token-contrast",
        "--direction probe",
        "--direction-rows 100 --direction-block 0",
    ),
    Case("edit", "--direction mean-difference or probe", "--direction runs/d", "", "--direction-block -1"),
    Case("edit", "--prompts or --report-prompts with a table", "", "--prompts p.csv", "--prompt-column c"),
    Case(
        "edit",
        "--prompts or --report-prompts with a table",
        "--prompts p.TXT",
        "--prompts p.txt --report-prompts hub:a/b",
        "--prompt-column prompt",
    ),
    Case("edit", "--neutral with a table", "--neutral n.txt", "--neutral n.jsonl", "--neutral-column c"),
    Case("edit", "--passages", "", "--passages p.csv", "--passage-prompt-column c --passage-gold-column g"),
    Case("edit", "the searched edit", "--alpha 0.1", "", "--parts gains --logppl-budget 0.1"),
    Case("edit", "the searched edit", "--ablate 1", "", "--parts both"),
    Case("edit", "an edit with gains", "--ablate 1", "--ablate 1 --alpha 0.1", "--beta 0.55 --ranking signed"),
    Case("edit", "an edit with gains", "--parts ablation", "--parts gains", "--beta 0.5"),
    Case("evaluate", "--engine openai", "", "--engine openai --base-url http://a/v1", "--base-url http://b/v1"),
    Case("evaluate", "--engine openai", "--engine local", "--engine openai --base-url http://a/v1", "--concurrency 16"),
    Case("evaluate", "--protocol rtp", "", "--protocol rtp", "--rtp-samples 25 --fluency-model N"),
    Case(
        "evaluate",
        "a --condition of scale, assign, steer or ablate",
        "--condition edit:runs/scale --condition model:assign/steer,strength=0.5",
        "--condition edit:x+ablate",
        "--direction probe --direction-rows 100 --direction-block 3",
    ),
    *(
        Case("evaluate", "a --condition of scale, assign, steer or ablate", "", f"--condition {one}", "--direction d")
        for one in ("scale", "mine=assign:alpha=0.1", "steer:alpha=1", "ablate:weight=1")
    ),
    Case(
        "probe",
        "--kind probe or mean-difference",
        "--kind token-contrast",
        "--kind mean-difference",
        "--comments c.csv --text-column t --label-column l --positive-label 1 --direction-rows 9 --direction-block 1 "
        "--batch-size 2",
    ),
    Case("probe", "--kind probe", "--kind mean-difference", "--kind probe", "--seed 0"),
    Case(
        "explain",
        "an endpoint as --token-judge",
        "",
        "--token-judge https://a/v1",
        "--token-price 1 2 --requests-per-minute 60",
    ),
    Case("explain", "--seeds above 0", "--seeds 0", "--seeds 2", "--bootstrap"),
    Case("explain", "--direction probe or mean-difference", "--direction d", "--direction probe", "--bootstrap"),
    Case(
        "explain",
        "--direction mean-difference or probe",
        "--direction d --seeds 0 --no-claim-directions",
        "--direction d --seeds 2 --no-claim-directions",
        "--direction-rows 100 --direction-block 3",
    ),
    Case(
        "explain",
        "--direction mean-difference or probe",
        "--direction d --seeds 0 --neurons-only",
        "--direction d --seeds 0",
        "--direction-rows 100",
    ),
    Case(
        "explain",
        "a whole explanation",
        "--neurons-only",
        "",
        "--patching --interchange --claim-directions --edits --edit-forms scale --edit-grid 0.1:0.5 --steer 0.1 "
        "--steer-w 1 --controls",
    ),
    Case("explain", "--protocol strict", "--protocol reference", "--protocol strict", "--interchange"),
    Case("explain", "patches", "--no-patching", "--patching", "--claim-directions"),
    Case("explain", "edits", "--no-edits", "--edits", "--edit-forms scale --edit-grid 0.1:0.5"),
    Case(
        "explain",
        "edits of --edit-forms, and a cell is of another form",
        "--edit-forms assign --edit-grid 0.1:0.5",
        "--edit-forms assign --edit-forms scale",
        "--edit-grid scale:0.3:0.55",
    ),
    Case(
        "pairs",
        "--method sample",
        "--method pplm",
        "--method sample",
        "--pairing extremes --prompts p.csv --prompt-column c --use all --report-prompts r.csv --rank-by direction "
        "--samples 16 --pairs-per-prompt 2 --preferred-below 0.3 --min-gap 0.1 --top-p 0.9 --temperature 1",
    ),
    Case("pairs", "--method sample", "--method pplm", "", "--pairing random --dispreferred-from 0.6"),
    Case(
        "pairs",
        "--method pplm",
        "",
        "--method pplm",
        "--learn-text t.csv --learn-text-column c --prompt-tokens 20 --step-size 0.02 --iterations 2 --horizon 1 "
        "--window 0 --gamma 1 --gm-scale 0.8 --kl-scale 0.01 --top-k 0 --draw",
    ),
    *(
        Case(
            "pairs",
            "--method pplm and for --rank-by direction",
            "--method sample",
            counts,
            "--direction probe --direction-block -1 --direction-rows 100",
        )
        for counts in ("--method pplm", "--rank-by direction")
    ),
    *(
        Case(
            "pairs", "--direction mean-difference or probe", f"--method pplm --direction {one}", counts, "--comments c"
        )
        for one, counts in (
            ("token-contrast", "--method pplm --direction probe"),
            ("runs/d", "--rank-by direction --direction runs/d"),
            ("token-contrast", "--method sample"),
        )
    ),
    Case(
        "pairs",
        "--direction mean-difference or probe",
        "--method pplm --direction d",
        "--rank-by direction --direction d",
        "--direction-rows 100",
    ),
    Case("pairs", "--draw", "--method pplm", "--method pplm --draw", "--top-k 10"),
    Case(
        "pairs",
        "--iterations above 0",
        "--method pplm --iterations 0",
        "--method pplm",
        "--step-size 0.02 --horizon 1 --window 0 --gamma 1 --gm-scale 0.8",
    ),
    Case(
        "pairs",
        "--iterations above 1",
        "--method pplm --iterations 1",
        "--method pplm --iterations 2",
        "--kl-scale 0.01",
    ),
    Case("pairs", "--pairing extremes", "--pairing random", "--pairing extremes", "--min-gap 0.3"),
    Case("pairs", "--pairing random", "--pairing extremes", "", "--dispreferred-from 0.5"),
    Case("pairs", "--comments", "", "--comments c.csv", "--text-column t"),
    Case("pairs", "--prompts or --report-prompts with a table", "", "--report-prompts r.csv", "--prompt-column c"),
    Case(
        "pairs",
        "--learn-text with a table",
        "--method pplm",
        "--method pplm --learn-text t.csv",
        "--learn-text-column c",
    ),
    Case("pairs check", "--model", "", "--model M", "--layout l.toml --logppl"),
    Case(
        "pairs check", "--logppl", "--model M", "--model M --logppl", "--chat on --system S --wrap {prompt} --prefill P"
    ),
    Case("dpo", "--train lora", "", "--train lora", "--lora-rank 16 --lora-alpha 32"),
    Case("dpo", "--train lora", "--train gains", "--train lora", "--lora-rank 4"),
    Case("dpo", "--train gains", "--train lora", "--train gains", "--heads --sparsity 0.1 --start e"),
    Case("dpo", "--start, whose edit they are chosen from", "--train gains", "--train gains --start e", "--neurons 5"),
    *(
        Case("dpo", "--train gains or lora where it is float16", "", counts, "--dtype float16")
        for counts in ("--train gains", "--train lora")
    ),
    Case("dpo", "--teacher", "--train gains", "--train gains --teacher T", "--teacher-weight 1 --teacher-strength 2"),
    Case("dpo", "--loss dpo", "--loss likelihood", "--loss dpo", "--beta 0.1"),
    Case("dpo", "--kl-on harmless or mixed", "--kl-on neutral", "--kl-on mixed", "--harmless h.jsonl"),
    Case("dpo", "--kl-on harmless or mixed", "--protocol reference", "", "--harmless h.jsonl"),
    Case(
        "dpo",
        "--kl-on neutral or mixed",
        "--kl-on pairs",
        "--kl-on neutral",
        "--learn-text t.csv --learn-text-column c --window-tokens 128",
    ),
    Case(
        "dpo",
        "--kl-on neutral or mixed",
        "--kl-on harmless --harmless h",
        "--harmless h",
        "--learn-text t --window-tokens 9",
    ),
    Case(
        "dpo",
        "--kl-on neutral or mixed",
        "--preset paper",
        "--preset paper --kl-on neutral",
        "--learn-text t.csv --learn-text-column c --window-tokens 9",
    ),
    Case(
        "dpo",
        "--kl-on neutral, harmless or mixed",
        "--kl-on pairs",
        "--kl-on harmless --harmless h",
        "--windows-per-batch 2",
    ),
    Case("dpo", "--kl-on neutral", "--harmless h", "--kl-on neutral", "--window-pool 512"),
    Case("dpo", "--learn-text with a table", "--learn-text t.txt", "--learn-text t.csv", "--learn-text-column c"),
    Case("tune", "gains", "--parts ablation", "--parts gains", "--methods learned"),
    Case(
        "tune",
        "learned gains, and there are none",
        "--methods groups",
        "--methods groups --methods learned",
        "--heads --kl-weights 3 --kl-on mixed --teacher lora --teacher-strength 1 --samples 8 --pairing extremes "
        "--min-gap 0.3 --epochs 1 --micro-batch-size 2",
    ),
    Case("tune", "learned gains, and there are none", "--parts ablation", "", "--samples 4 --teacher full"),
    Case("tune", "--teacher", "--teacher none", "--teacher lora", "--teacher-strength 1"),
    Case("tune", "--pairing extremes", "", "--pairing extremes", "--min-gap 0.3"),
    Case("tune", "a search, and --quick has none", "--quick", "", "--trials 24"),
    Case("tune", "a search, and --quick learns gains alone", "--quick", "", "--parts both"),
    Case("tune", "--learn-text with a table", "", "--learn-text t.csv", "--learn-text-column c"),
    Case("generate", "--sample", "", "--sample", "--temperature 1 --top-p 0.9 --seed 0"),
    Case("generate", "--prompts", "--prompt P", "--prompts p.txt", "--limit 2"),
    Case("generate", "--prompts with a table", "--prompts p.txt", "--prompts p.csv", "--prompt-column c"),
]


def words_of(text: str) -> Iterator[list[str]]:
    """Each option with its values."""
    words: list[str] = []
    for word in shlex.split(text):
        if word.startswith("--") and words:
            yield words
            words = []
        words.append(word)
    if words:
        yield words


def values_of(kind: type[Settings], text: str) -> dict[str, Any]:
    """What a call from Python gives: option → value."""
    found: dict[str, Any] = {}
    for option, *values in words_of(text):
        name = option.removeprefix("--").replace("-", "_")
        if name.startswith("no_"):
            found[name.removeprefix("no_")] = False
        elif "list" in str(kind.model_fields[name].annotation):
            found[name] = [*found.get(name, []), *values]
        else:
            found[name] = tuple(values) if len(values) > 1 else values[0] if values else True
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.command} {case.nothing} / {case.options}")
def test_it_is_refused_where_it_counts_for_nothing_and_taken_where_it_counts(capsys, case):
    line = shlex.split(f"{LINES[case.command]} {case.options}")
    told = command(capsys, *line, *shlex.split(case.nothing))
    refused = {f"dposcope: {option} is for {case.what}" for option, *_ in words_of(case.options)}
    assert (told.code, told.out) == (2, "")
    assert told.err.partition(";")[0] in refused
    assert told.err.count("\n") == 1
    parsed([*line, *shlex.split(case.counts)])
    kind = SETTINGS[case.command]
    needed = {name: "x" for name, field in kind.model_fields.items() if field.is_required()}
    beside = needed | values_of(kind, case.nothing)
    for option in words_of(case.options):
        own = values_of(kind, shlex.join(option))
        with pytest.raises(ValidationError) as refusal:
            kind(**beside | own)
        assert f"Value error, {option[0]} is for {case.what}; " in str(refusal.value)


def parsed(words: list[str]) -> None:
    """An error says what is refused."""
    app.config = []
    app.parse_args(words, exit_on_error=False, print_error=False)


def rules(kind: type[Settings]) -> Iterator[tuple[Only, str]]:
    """Every rule with each of its options."""
    yield from ((rule, name) for rule in kind.rules() for name in rule.options)


def test_every_rule_has_a_case_for_each_of_its_options():
    """Those that a class has from its base may be tried of any of the classes that have it."""
    tried = {f"{option} is for {case.what};" for case in CASES for option, *_ in words_of(case.options)}
    missing = {
        f"{name}: {told}"
        for kind in SETTINGS.values()
        for rule, name in rules(kind)
        if not (told := rule.refusal(name)).startswith(tuple(tried))
    }
    assert missing == set()


@pytest.mark.parametrize("kind", SETTINGS.values())
def test_a_rule_names_options_that_are_there_and_the_defaults_pass(kind):
    assert {name for _, name in rules(kind)} <= set(kind.model_fields)
    needed = {name: "x" for name, field in kind.model_fields.items() if field.is_required()}
    assert kind(**needed).idle(needed) == []


@pytest.mark.parametrize(
    ("line", "off"),
    [
        ("explain M T --out x --neurons-only", "--no-patching --no-interchange --no-edits --no-controls"),
        ("pairs M --out x.jsonl", "--no-draw"),
        ("dpo M --pairs p --out x", "--no-heads"),
        ("tune M --out x --methods groups", "--teacher none"),
        ("tune M --out x --quick", "--parts gains"),
        ("dpo M --pairs p --out x --kl-weight 0", "--kl-on neutral --learn-text t"),
        ("edit M --out x --alpha 0", "--beta 0.4"),
    ],
)
def test_what_asks_for_nothing_is_taken(line, off):
    """What is switched off is not missed, and 0 is one strength among others."""
    parsed([*shlex.split(line), *shlex.split(off)])


TOLD = "--lora-rank is for --train lora; give that, or leave --lora-rank out"


def test_a_call_from_python_is_told_the_same():
    with pytest.raises(ValidationError, match=TOLD):
        DpoSettings(pairs="p", train="gains", lora_rank=16)
    assert DpoSettings(pairs="p", train="lora", lora_rank=4).lora_rank == 4


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_a_settings_file_is_told_the_same(capsys, tmp_path, suffix):
    file = tmp_path / f"settings{suffix}"
    file.write_text('train = "gains"\nlora-rank = 16\n' if suffix == ".toml" else '{"train": "gains", "lora_rank": 16}')
    told = command(capsys, *shlex.split(LINES["dpo"]), "--config", file)
    assert (told.code, told.out, told.err) == (2, "", f"dposcope: {TOLD}\n")


def test_what_a_program_fills_in_is_taken():
    """As a record does, which has every option, and as a preset does for many runs."""
    made = DpoSettings(pairs="p", train="gains")
    stored = made.model_dump(mode="json")
    assert DpoSettings.filled(stored) == made
    assert parse_json(json.dumps(stored), DpoSettings, source="training.json") == made
    with pytest.raises(ValidationError, match=TOLD):
        DpoSettings.filled(stored, given=["train", "lora_rank"])
    assert EditSettings(concept="toxicity").text_column == "comment_text"  # the concept's, for which nobody asked


def test_the_first_of_several_is_told():
    assert EditSettings(alpha=0.1).idle(["neutral_column", "alpha", "parts"]) == [
        "--parts is for the searched edit; leave it out with --alpha or --ablate",
        "--neutral-column is for --neutral with a table; give that, or leave --neutral-column out",
    ]


# Reproductions


def test_presets_have_nothing_for_nothing(tmp_path):
    given = ReproduceSettings(comments="c.csv", passages="p.csv")
    for name in preset_names():
        assert plan("m", tmp_path, load_preset(name), given), name


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--neutral-column", "c"], "--neutral-column is for --neutral with a table"),
        (["--bootstrap", "--seeds", "0"], "--bootstrap is for --seeds above 0"),
        (["--system", "S", "--chat", "off"], "--system is for --chat on or auto"),
    ],
)
def test_an_option_that_no_step_of_a_preset_takes_is_refused(capsys, tmp_path, given, told):
    refused = command(capsys, "reproduce", "--preset", "smoke", "--out", tmp_path / "out", *given)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith(f"dposcope: preset smoke: {told}; ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("pairs", "told"),
    [
        ({"method": "sample"}, None),
        ({"method": "sample", "step_size": 0.1}, r"\[pairs\]: .*--step-size is for --method pplm; .*; mend it there"),
    ],
)
def test_an_option_of_one_study_must_count_there_and_a_shared_one_need_not(tmp_path, pairs, told):
    preset = load_preset("smoke")
    assert preset.shared["direction"] == "mean-difference"  # which sampled pairs do not take
    preset = preset.model_copy(update={"study": [preset.study[0].model_copy(update={"pairs": pairs})]})
    with nullcontext() if told is None else pytest.raises(DposcopeError, match=told):
        plan("m", tmp_path, preset, ReproduceSettings())


# What the documentation says is tried in tests/docs


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_of_benchmarks_pass(name):
    parsed([part.format(model="M", out="runs", pairs="pairs.jsonl") for part in COMMANDS[name]])


def test_it_is_refused_before_a_folder_is_made(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    told = command(capsys, *shlex.split(LINES["edit"]), "--dry-run", "--alpha", "1", "--parts", "gains")
    assert told.code == 2
    assert [*Path().iterdir()] == []
