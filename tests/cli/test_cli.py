"""The command line: what it teaches, what it refuses and how, and what it prints."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from dposcope.artefacts import write_json
from dposcope.data.masking import mask_offensive
from dposcope.directions.direction import Direction
from dposcope.directions.lens import lens
from dposcope.errors import DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.jobs.dpo.settings import DpoSettings
from dposcope.jobs.edit.settings import EditSettings
from dposcope.jobs.evaluate.settings import EvaluateSettings
from dposcope.jobs.pairs.settings import PairsSettings
from dposcope.jobs.settings import MachineSettings, ProbeSettings
from dposcope.marks import FileMark, mark_json
from dposcope.model import bundled
from dposcope.model.load import load
from helpers.families import bos_tokenizer
from helpers.jobs import Job, command, contents, crashes, interpreter, make_job, process, write_csv, write_jsonl
from helpers.mixtures import shared_mixture

pytestmark = pytest.mark.usefixtures("light")


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def done(job, tmp_path_factory) -> Path:
    """The folder of a finished edit."""
    from dposcope.jobs.edit.job import run_edit

    out = tmp_path_factory.mktemp("done") / "out"
    run_edit(str(job.model), out, EditSettings(**job.settings(alpha=0.2, ablate=0.5)))
    return out


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    """Texts are not broken where a terminal would end."""
    monkeypatch.setenv("COLUMNS", "400")


# Help

_COMMANDS = {
    "dpo": DpoSettings,
    "edit": EditSettings,
    "evaluate": EvaluateSettings,
    "probe": ProbeSettings,
    "lens": MachineSettings,
    "pairs": PairsSettings,
}
_NOT_OF = {"lens": {"batch_size", "seed"}}
"""Settings of the machine that a command has no use for."""


def entries(help_text: str) -> dict[str, str]:
    """Option → its paragraph of a help page."""
    found: dict[str, str] = {}
    option = ""
    for line in help_text.splitlines():
        body = line.strip("│╭╰─ ╮╯").removeprefix("*").strip()
        # An option begins its line; a description, which may name another option, stands further in.
        named = re.match(r"(--[a-z0-9-]+)\b(.*)", body) if re.match(r"│ (\*  |   )?--", line) else None
        if named:
            option = named[1]
            found[option] = named[2]
        elif option and line.startswith("│"):
            found[option] += " " + body
        else:
            option = ""
    return found


def test_help_shows_the_way(capsys):
    told = command(capsys, "--help")
    assert told.code == 0
    for name in (*_COMMANDS, "models"):
        assert re.search(rf"^│ {name}\b", told.out, re.MULTILINE)
    assert "dposcope edit gemma-3-270m --out" in told.out
    assert "--config" in told.out
    assert "--debug" in told.out
    assert told.err == ""


def test_help_says_what_each_command_is_for(capsys):
    page = command(capsys, "--help").out
    for name in (*_COMMANDS, "models"):
        assert re.search(rf"^│ {name}\s+\w.{{10,}}", page, re.MULTILINE), f"no word about {name}"


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_option_is_described_with_its_default(capsys, name):
    told = command(capsys, name, "--help-all")
    assert told.code == 0
    options = entries(told.out)
    for field, info in _COMMANDS[name].model_fields.items():
        if field in _NOT_OF.get(name, ()):
            continue
        option = f"--{field.replace('_', '-')}"
        assert option in options, f"{name} --help-all lacks {option}"
        text = options[option]
        assert len(text.split()) >= 3, f"{option} is not described"
        if info.is_required():
            assert "[required]" in text
        elif info.default is None:
            assert re.search(r"[Dd]efault|[Mm]ay be given", text), f"{option}: what if it is left out? {text}"
        else:
            assert f"[default: {info.default}]" in text, f"{option} has no default in {text!r}"
    assert "[required]" in told.out


@pytest.mark.parametrize(
    ("option", "unit"),
    [
        ("--logppl-budget", "nats per token"),
        ("--max-windows", "tokens"),
        ("--beta", "Fraction"),
        ("--batch-size", "Texts"),
        ("--limit", "prompts"),
        ("--max-passages", "Passages"),
        ("--direction-rows", "Comments"),
        ("--alpha", "gain of 1−α or 1+α"),
        ("--ablate", "Share"),
        ("--direction-block", "Block"),
    ],
)
def test_numbers_have_units(capsys, option, unit):
    assert unit in entries(command(capsys, "edit", "--help-all").out)[option]


def test_no_option_is_offered_that_nothing_reads(capsys):
    """`lens` reads one vector: it has no batches and draws nothing."""
    options = entries(command(capsys, "lens", "--help-all").out)
    assert "--batch-size" not in options
    assert "--seed" not in options


def test_evaluate_teaches_its_conditions(capsys):
    """There is no other place where a person at a terminal learns them."""
    page = command(capsys, "evaluate", "--help").out
    for words in (
        "scale:alpha",
        "assign:",
        "steer:alpha",
        "ablate:weight",
        "edit:",
        "control:",
        "gains-of:",
        "strength=0.8",
        "shuffled",
    ):
        assert words in page, words
    assert "scores.md" in page


def test_edit_says_what_it_writes(capsys):
    page = command(capsys, "edit", "--help").out
    for words in ("model/", "edit.safetensors", "scores.json", "report.html", "continues the run"):
        assert words in page, words


@pytest.mark.parametrize("arguments", [["models"], ["models", "path"], ["models", "get"]])
def test_models_has_help(capsys, arguments):
    told = command(capsys, *arguments, "--help")
    assert told.code == 0
    assert re.search(r"gemma-3-270m|smollm2-135m-instruct", told.out)


def test_version(capsys):
    from importlib.metadata import version

    assert command(capsys, "--version").out.strip() == version("dposcope")


def test_help_does_not_wait_for_torch():
    """Help that takes seconds is not read twice."""
    import subprocess
    import sys

    code = (
        "import sys\nfrom dposcope.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'transformers', 'sklearn') if name in sys.modules], file=sys.stderr)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stderr.strip() == "[]"


# Bad input: one line, the mend, code 2, nothing left behind


@pytest.fixture(scope="module")
def bad(job, tmp_path_factory) -> dict[str, Path]:
    """Files and models with one fault each."""
    root = tmp_path_factory.mktemp("bad")
    tokenizer = bos_tokenizer()
    BertForMaskedLM(
        BertConfig(vocab_size=96, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    ).save_pretrained(root / "bert")
    T5ForConditionalGeneration(
        T5Config(vocab_size=96, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
    ).save_pretrained(root / "t5")
    for name in ("bert", "t5"):
        tokenizer.save_pretrained(root / name)
    shutil.copytree(job.model, root / "no-weights")
    (root / "no-weights/model.safetensors").unlink()
    shutil.copytree(job.model, root / "torn")
    torn = root / "torn/model.safetensors"
    torn.write_bytes(torn.read_bytes()[:5000])
    shutil.copytree(job.model, root / "no-tokenizer")
    for file in (root / "no-tokenizer").glob("tokenizer*"):
        file.unlink()
    shutil.copytree(job.model, root / "holey")
    weights = load_file(root / "holey/model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, root / "holey/model.safetensors", metadata={"format": "pt"})
    (root / "empty-folder").mkdir()
    (root / "empty.csv").write_text("")
    (root / "header.csv").write_text("comment_text,toxic\n")
    (root / "latin.csv").write_bytes("comment_text,toxic\ncafé,1\n".encode("latin-1"))
    write_csv(root / "one-class.csv", ["comment_text", "toxic"], [[f"a word {n}", 1] for n in range(40)])
    write_csv(root / "sorted.csv", ["comment_text", "toxic"], [[f"a word {n}", int(n < 40)] for n in range(80)])
    write_csv(root / "labels.csv", ["comment_text", "toxic"], [["a", "maybe"], ["b", "no"]])
    write_csv(root / "few.csv", ["comment_text", "toxic"], [[f"a word {n}", n % 2] for n in range(16)])
    write_jsonl(root / "other-column.jsonl", [{"text": "the river"}] * 8)
    write_jsonl(root / "three.jsonl", [{"prompt": f"the river {n}"} for n in range(3)])
    (root / "broken.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    (root / "short.txt").write_text("the river is long")
    (root / "list.xlsx").write_text("x")
    (root / "bad.toml").write_text("beta = = 3")
    (root / "bad.json").write_text("{")
    (root / "latin.toml").write_bytes(b'comments = "\xe9"')
    (root / "unknown.toml").write_text("betta = 0.3\n")
    (root / "unknown.json").write_text('{"betta": 0.3}')
    (root / "type.toml").write_text('beta = "x"\n')
    (root / "range.json").write_text('{"beta": 3.0}')
    (root / "list.json").write_text("[1]")
    (root / "settings.yaml").write_text("beta: 0.3")
    (root / "mine").mkdir()
    (root / "mine/notes.txt").write_text("keep")
    return {path.name: path for path in root.iterdir()} | {"root": root}


# name → (settings or flags, words that the line must hold). A list is added to the command line; a dictionary
# replaces settings; "model" replaces the model; names of files in `bad` are put in as {name}.
EDITS: dict[str, tuple[dict[str, str], list[str], str]] = {
    "unknown model": ({"model": "no-such/model"}, [], r"cannot load 'no-such/model': .*check the network"),
    "slip in a bundled name": ({"model": "gemma-3-270"}, [], r"Did you mean the bundled 'gemma-3-270m'\?"),
    "no such folder": ({"model": "/no/such/folder"}, [], "give a folder, a .gguf file, a bundled name or a hub id"),
    "no such gguf": ({"model": "/no/such.gguf"}, [], r"no file /no/such\.gguf; check the path"),
    "an encoder": ({"model": "{bert}"}, [], "no layout for model_type 'bert'; call dposcope.register_layout"),
    "an encoder-decoder": ({"model": "{t5}"}, [], "is not a causal language model; dposcope reads decoders"),
    "a folder without a model": ({"model": "{empty-folder}"}, [], "holds no config.json; name a folder"),
    "a model without weights": ({"model": "{no-weights}"}, [], "no-weights"),
    "a torn model": ({"model": "{torn}"}, [], "torn"),
    "a model that lacks a weight": (
        {"model": "{holey}"},
        [],
        r"holey has no .*model\.layers\.1\.mlp\.down_proj\.weight",
    ),
    "a model without a tokenizer": ({"model": "{no-tokenizer}"}, [], "no-tokenizer"),
    "missing comments": ({"comments": "/no/such.csv"}, [], r"such\.csv"),
    "empty comments": ({"comments": "{empty.csv}"}, [], r"empty\.csv is empty; give a file"),
    "only a header": ({"comments": "{header.csv}"}, [], r"holds no rows; give a file"),
    "not UTF-8": ({"comments": "{latin.csv}"}, [], r"is not UTF-8 \(byte 22\); convert it, for example: iconv"),
    "one class": ({"comments": "{one-class.csv}"}, [], r"must have both classes, .*40 toxic and 0 non-toxic; give"),
    "sorted classes": ({"comments": "{sorted.csv}"}, [], r"kept for the .*; shuffle the rows"),
    "odd labels": ({"comments": "{labels.csv}"}, [], r"label 'maybe' .*; name the toxic label with --positive-label"),
    "too few for a judge": ({"comments": "{few.csv}"}, [], "at least 10 of each class: add comments"),
    "no such text column": (
        {"text_column": "body"},
        [],
        r"no column 'body', only 'comment_text', 'toxic'; choose with",
    ),
    "no such label column": ({"label_column": "rude"}, [], r"no column 'rude'.*choose with .*--label-column"),
    "prompts without the column": ({"prompts": "{other-column.jsonl}"}, [], "choose with --prompt-column"),
    "three prompts": ({"prompts": "{three.jsonl}"}, [], "3 prompts cannot be split .*; give at least 4"),
    "broken JSONL": ({"prompts": "{broken.jsonl}"}, [], r"line 2 of .*broken\.jsonl is not JSON"),
    "unknown suffix": ({"prompts": "{list.xlsx}"}, [], r"unknown suffix '\.xlsx'; convert it"),
    "short neutral text": (
        {"neutral": "{short.txt}"},
        [],
        "neutral text has 0 windows .*; give a longer one",
    ),
    "passages without gold": ({"passage_gold_column": "end"}, [], "choose with --passage-prompt-column and"),
    "a negative alpha": ({}, ["--alpha", "-0.1"], "--alpha: .*greater than or equal to 0, not -0.1"),
    "infinite alpha": ({}, ["--alpha", "inf"], "--alpha: .*finite"),
    "alpha is no number": ({}, ["--alpha", "much"], "--alpha: .*number.*much"),
    "beta above one": ({}, ["--beta", "1.5"], "--beta: .*less than or equal to 1, not 1.5"),
    "a negative beta": ({}, ["--beta", "-1"], "--beta: .*greater than or equal to 0, not -1"),
    "beta is not a number": ({}, ["--beta", "nan"], "--beta"),
    "infinite ablation": ({}, ["--ablate", "inf"], "--ablate: .*finite"),
    "no ablation": ({}, ["--ablate", "nan"], "--ablate"),
    "an infinite bound": ({}, ["--logppl-budget", "inf"], "--logppl-budget: .*finite"),
    "a bound of zero": ({}, ["--logppl-budget", "0"], "--logppl-budget: .*greater than 0, not 0"),
    "an unknown ranking": ({}, ["--ranking", "best"], "--ranking: .*'cosine', 'signed', 'activation' or 'reference'"),
    "parts with a given strength": ({}, ["--alpha", "0.1", "--parts", "gains"], "--parts is for the searched edit"),
    "batches of none": ({"batch_size": "0"}, [], "--batch-size: .*greater than or equal to 1, not 0"),
    "an unknown precision": ({"dtype": "int8"}, [], "--dtype: .*'float32'"),
    "an unknown device": ({"device": "mars"}, [], "device 'mars' is unknown; use auto, cpu"),
    "two prompts": ({"limit": "2"}, [], "--limit: .*greater than or equal to 4, not 2"),
    "an unknown option": ({}, ["--betta", "0.3"], "--betta"),
    "an unknown scorer": (
        {"scorer": "no-such/scorer"},
        [],
        "cannot load the classifier no-such/scorer .*; name a folder",
    ),
    "a scorer function that is not there": (
        {"scorer": "helpers.jobs:nothing"},
        [],
        "helpers.jobs has no function nothing; name one",
    ),
    "a scorer module that is not there": ({"scorer": "nomodule:score"}, [], "cannot import nomodule .*; run where"),
    "an unknown direction": ({"direction": "sideways"}, [], "--direction 'sideways' is neither mean-difference, probe"),
    "a block that is not there": ({"direction_block": "7"}, [], "no block 7 in a model of 3 blocks"),
    "settings that are no TOML": ({}, ["--config", "{bad.toml}"], "line 1"),
    "settings that are no JSON": ({}, ["--config", "{bad.json}"], "line 1"),
    "settings that are not UTF-8": ({}, ["--config", "{latin.toml}"], "(?i)utf-8"),
    "settings that are a list": (
        {},
        ["--config", "{list.json}"],
        r"list\.json holds a list where an object belongs; write one option",
    ),
    "settings with a slip": ({}, ["--config", "{unknown.toml}"], r"betta.* from .*unknown\.toml"),
    "JSON settings with a slip": ({}, ["--config", "{unknown.json}"], r"betta.* from .*unknown\.json"),
    "a setting of another type": ({}, ["--config", "{type.toml}"], "--beta: .*number"),
    "a setting out of range": ({}, ["--config", "{range.json}"], "--beta: .*less than or equal to 1, not 3"),
    "no settings file": ({}, ["--config", "/no/such.toml"], r"no settings file '/no/such\.toml'; --config takes"),
    "no settings named": ({}, ["--config"], "no settings file ''; --config takes a .toml or .json file"),
    "settings of another kind": ({}, ["--config", "{settings.yaml}"], r"is neither \.toml nor \.json"),
    "a file as folder": ({"out": "{empty.csv}"}, [], "is a file; choose a folder for --out"),
    "below a file": ({"out": "{empty.csv}/out"}, [], "cannot make .*; choose another --out"),
    "somebody's folder": ({"out": "{mine}"}, [], "holds files that are not a run's; choose an empty or new folder"),
    "the model's own folder": ({"out": "{t5}"}, [], "holds files that are not a run's"),
}

CONDITIONS: dict[str, tuple[list[str], str]] = {
    "an unknown kind": (["bogus"], "no kind 'bogus'; choose from scale, assign, steer, ablate, interchange, edit"),
    "an unknown key": (["scale:gamma=1"], r"scale takes alpha, beta, .*, not 'gamma=1'"),
    "a key of another kind": (["steer:beta=1"], "steer takes alpha, .*, not 'beta=1'"),
    "no value": (["scale:alpha"], "scale takes .*, not 'alpha'"),
    "no number": (["scale:alpha=much"], "alpha needs a number, not 'much'"),
    "not a number": (["steer:alpha=nan"], "alpha .*nan"),
    "infinite": (["ablate:weight=inf"], "weight .*inf"),
    "half a block": (["steer:block=0.5"], "block needs a number, not '0.5'"),
    "neither yes nor no": (["scale:shuffled=perhaps"], "shuffled is yes or no, not 'perhaps'"),
    "an unknown ranking": (["scale:ranking=best"], "ranking is one of cosine, signed, activation, reference"),
    "an unknown site": (["steer:site=head"], "residual or mlp"),
    "a site of another kind": (["ablate:site=residual"], "ablate acts at site mlp.* or both"),
    "blocks backwards": (["ablate:blocks=2-1"], "blocks are a range such as 9-17, not '2-1'"),
    "blocks outside": (["ablate:blocks=1-9"], "no block .* in a model of 3 blocks"),
    "beta above one": (["scale:beta=2"], r"beta.* 2"),
    "a negative alpha": (["assign:alpha=-1"], "alpha.* -1"),
    "a block outside": (["steer:block=9"], "block 9 is outside a model of 3 blocks"),
    "a percentile outside": (["scale:trim=200"], r"(percentile|trim).* 200"),
    "a file that is not there": (["edit:/no/such.safetensors"], r"cannot read /no/such\.json"),
    "a strength of none": (["edit:gemma-3-270m,strength=strong"], "strength needs a number, not 'strong'"),
    "a folder without an edit": (
        ["edit:/usr"],
        r"holds no edit\.safetensors; name an edit's file, or the folder of a run",
    ),
    "no file": (["edit"], "name the file, as in edit:runs/mine/edit.safetensors"),
    "no file for a part": (["gains-of:"], "name the file, as in gains-of:runs/mine/edit.safetensors"),
    "parts that do not join": (["assign+scale"], "only scale, ablate and .*edits? can be joined with \\+"),
    "one name twice": (["scale", "scale"], "two conditions have one name; give each its own, as in mine=scale"),
    "the reserved name": (["none=scale"], "'none' is always measured; give yours another name"),
}


@pytest.fixture(scope="module")
def refusals(job, bad, tmp_path_factory) -> dict[str, dict]:
    """Every command of the two tables above, run as it would be: what it said and what it left."""
    root = tmp_path_factory.mktemp("refused")
    commands: dict[str, list[str]] = {}
    outs: dict[str, Path] = {}

    def filled(text: str) -> str:
        return re.sub(r"\{([^}]+)\}", lambda found: str(bad[found[1]]), text)

    for name, (changes, flags, _) in EDITS.items():
        given = {key: filled(value) for key, value in changes.items()}
        model = given.pop("model", str(job.model))
        outs[name] = Path(given.pop("out", str(root / f"edit-{len(outs)}")))
        commands[name] = ["edit", model, "--out", str(outs[name]), *job.flags(**given), *map(filled, flags)]
    for name, (conditions, _) in CONDITIONS.items():
        key = f"condition: {name}"
        outs[key] = root / f"evaluate-{len(outs)}"
        flags = [part for condition in conditions for part in ("--condition", condition)]
        commands[key] = ["evaluate", str(job.model), "--out", str(outs[key]), *job.flags(), *flags]
    before = {name: contents(out) if out.is_dir() else None for name, out in outs.items()}
    told = crashes("refused", commands=list(commands.values()))
    return {name: {**one, "out": outs[name], "before": before[name]} for name, one in zip(commands, told, strict=True)}


@pytest.mark.parametrize("name", [*EDITS, *(f"condition: {name}" for name in CONDITIONS)])
def test_bad_input_is_one_line_with_its_mend(refusals, name):
    told = refusals[name]
    wanted = CONDITIONS[name.removeprefix("condition: ")][1] if name.startswith("condition: ") else EDITS[name][2]
    lines = told["err"].splitlines()
    assert "Traceback" not in told["err"], told["err"]
    assert told["code"] == 2
    assert lines[-1].startswith("dposcope: ")
    assert re.search(wanted, lines[-1]), lines[-1]
    assert len(lines) == 1, told["err"]
    left = contents(told["out"]) if told["out"].is_dir() else {}
    if told["before"] is not None:
        assert left == told["before"]
    # What is there is what a resumed run needs: nothing hidden but the lock, nothing of a result.
    assert [file for file in left if Path(file).name.startswith(".") and Path(file).name != ".lock"] == []
    assert not any(
        file.startswith(("model/", "scores", "samples", "report", "edit.")) for file in left if not told["before"]
    )


@pytest.mark.parametrize("flags", [["--out", ""], ["--out="]])
def test_an_empty_folder_is_not_the_working_folder(tmp_path, monkeypatch, capsys, flags):
    monkeypatch.chdir(tmp_path)
    told = command(capsys, "edit", "gemma-3-270m", *flags)
    assert (told.code, told.err) == (2, "dposcope: --out is empty; name a folder\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    [
        *(f"condition: {name}" for name in CONDITIONS),
        "an unknown direction",
        "too few for a judge",
    ],
)
def test_what_needs_no_model_is_told_before_one_is_run(refusals, name):
    """Not after the minutes that measuring the plain model takes."""
    left = contents(refusals[name]["out"]) if refusals[name]["out"].is_dir() else {}
    assert [file for file in left if file.startswith("stages/")] == []


def test_a_slip_costs_nothing(job, tmp_path, capsys):
    """The same --out with the mended command works."""
    out = tmp_path / "out"
    for fault in (["/no/such/model"], [job.model, "--direction-block", "7"], [job.model, "--direction", "sideways"]):
        assert command(capsys, "edit", *fault, "--out", out, *job.flags(alpha=0.1)).code == 2
    told = command(capsys, "edit", job.model, "--out", out, *job.flags(alpha=0.1))
    assert told.code == 0, told.err


@pytest.mark.parametrize(
    ("flags", "named"),
    [(["--alpha", "0.3"], r"alpha was 0\.2, now 0\.3"), (["--no-controls"], "controls was True, now False")],
)
def test_another_runs_folder_is_refused_by_the_option(job, done, capsys, flags, named):
    before = contents(done)
    settings = job.flags(ablate=0.5, **({} if "--alpha" in flags else {"alpha": 0.2}))
    told = command(capsys, "edit", job.model, "--out", done, *settings, *flags)
    assert told.code == 2
    assert re.fullmatch(rf"dposcope: .* holds another run's results \({named}\); choose another --out.*\n", told.err)
    assert contents(done) == before


def test_another_command_in_the_folder_is_refused(job, done, capsys):
    told = command(capsys, "evaluate", job.model, "--out", done, *job.flags())
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "holds a run of 'edit'; choose another --out" in told.err


def test_a_second_process_in_the_folder_is_refused(job, tmp_path, capsys):
    from dposcope.jobs.opening import open_run

    with open_run(tmp_path / "out", "edit", {}):
        told = command(capsys, "edit", job.model, "--out", tmp_path / "out", *job.flags())
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "another process is working in" in told.err


@pytest.mark.parametrize("arguments", [["edit"], ["probe", "x"], ["lens"], ["models", "path"]])
def test_missing_arguments_are_named(capsys, arguments):
    told = command(capsys, *arguments)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert re.search(r"requires an argument", told.err)


def test_an_unknown_command_lists_the_known(capsys):
    told = command(capsys, "tidy")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "reproduce, edit, tune, evaluate, explain, pairs, dpo, generate" in told.err


# Faults of other kinds


def test_a_message_is_one_line_whatever_it_holds(job, tmp_path, monkeypatch, capsys):
    def fail(*_args, **_options):
        raise DposcopeError("first [bold]line[/bold]\nsecond\tline")

    monkeypatch.setattr("dposcope.jobs.edit.job.run_edit", fail)
    told = command(capsys, "edit", job.model, "--out", tmp_path / "out")
    assert told.err == "dposcope: first [bold]line[/bold] second line\n"


@pytest.mark.slow
def test_ctrl_c_in_a_real_run(job, tmp_path):
    out = tmp_path / "out"
    running = process("edit", job.model, "--out", out, *job.flags())
    begun = time.monotonic()
    while not list(out.glob("stages/*.json")) and time.monotonic() < begun + 60:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate()
    assert running.returncode == 130
    assert "Traceback" not in told
    assert told.strip() == "dposcope: interrupted; run the same command again to continue"
    assert [path for path in out.rglob(".*") if path.name != ".lock"] == []


@pytest.mark.slow
def test_a_reader_that_stops_listening_is_no_traceback(job, done):
    """`dposcope edit … | head -1`."""
    running = interpreter("edit", job.model, "--out", done, *job.flags(alpha=0.2, ablate=0.5))
    running.stdout.close()
    with running.stderr as stream:
        told = stream.read()
    running.wait()
    assert "Traceback" not in told
    assert "Exception ignored" not in told
    assert told.count("\n") <= 1


# Output


def test_json_is_the_scores_and_nothing_else(job, done, capsys):
    told = command(capsys, "edit", job.model, "--out", done, *job.flags(alpha=0.2, ablate=0.5), "--json")
    assert told.code == 0
    assert json.loads(told.out) == json.loads((done / "scores.json").read_text())
    assert told.err == ""


def test_edit_says_where_things_are(job, done, capsys):
    told = command(capsys, "edit", job.model, "--out", done, *job.flags(alpha=0.2, ablate=0.5))
    for path in (done / "model", done / "report.html"):
        assert str(path) in told.out
    assert Edit.load(done / "edit").told(load(job.model)) in told.out
    assert "toxicity" in told.out


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_no_bars_where_there_is_no_terminal(job, tmp_path, capsys, quiet):
    told = command(capsys, "edit", job.model, "--out", tmp_path / "out", *job.flags(alpha=0.1), *quiet)
    assert told.code == 0
    assert told.err == ""
    assert "\x1b" not in told.out
    assert "━" not in told.out + told.err


@pytest.mark.slow
@pytest.mark.parametrize("quiet", [False, True])
def test_bars_on_a_terminal_unless_quiet(job, tmp_path, quiet):
    leader, follower = pty.openpty()
    arguments = ["edit", job.model, "--out", tmp_path / "out", *job.flags(alpha=0.1), *(["--quiet"] if quiet else [])]
    running = process(*arguments, terminal=follower, TERM="xterm")
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 4096):
            shown += part
    except OSError:  # how a terminal says that its other side is gone
        pass
    os.close(leader)
    running.communicate()
    assert running.returncode == 0
    text = shown.decode()
    if quiet:
        assert text == ""
    else:
        for title in ("Direction from comments", "Neuron means", "Measuring: none", "Measuring: edit", "Folding"):
            assert title in text


# Settings files


@pytest.mark.parametrize("kind", ["toml", "json"])
def test_settings_from_a_file_stand_below_flags(job, tmp_path, capsys, kind):
    settings = job.settings(alpha=0.3, beta=0.2, controls=False)
    lines = {name: value for name, value in settings.items() if name != "seed"}
    file = tmp_path / f"settings.{kind}"
    file.write_text(
        json.dumps(lines)
        if kind == "json"
        else "".join(f"{name.replace('_', '-')} = {json.dumps(value)}\n" for name, value in lines.items())
    )
    told = command(
        capsys, "edit", job.model, "--out", tmp_path / "out", f"--config={file}", "--beta", "0.4", "--trust-code"
    )
    assert told.code == 0, told.err
    stored = json.loads((tmp_path / "out/run.json").read_text())["settings"]
    assert stored["alpha"] == 0.3
    assert stored["beta"] == 0.4
    assert stored["controls"] is False
    assert stored["prompts"] == str(job.prompts)
    assert list(json.loads((tmp_path / "out/scores.json").read_text())["conditions"]) == ["none", "edit", "ideal"]


def test_several_conditions_from_a_file(job, tmp_path, capsys):
    file = tmp_path / "settings.toml"
    file.write_text('condition = ["mild=scale:alpha=0.1", "ablate:weight=1"]\n')
    told = command(capsys, "evaluate", job.model, "--out", tmp_path / "out", *job.flags(), "--config", file)
    assert told.code == 0, told.err
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert list(scores["conditions"]) == ["none", "mild", "ablate:weight=1", "ideal"]


@pytest.mark.parametrize(
    ("arguments", "settings", "said"),
    [
        (["evaluate", "tiny", "--out", "out"], 'chat = "nonsense"', "--chat: input should be 'auto', 'on' or 'off'"),
        (["generate", "tiny"], 'edit = "no/such"', "no/such"),
        (["dpo", "tiny", "--out", "out"], 'pairs = "no-such.jsonl"', "there is no file no-such.jsonl"),
        (["evaluate", "tiny", "--out", "out"], "[evaluate]\nlimit = 8", r'"\[evaluate\]\[limit\]" from .*s\.toml'),
    ],
)
def test_options_in_a_file_may_be_called_like_a_command(tmp_path, monkeypatch, capsys, arguments, settings, said):
    """None is left out in silence."""
    monkeypatch.chdir(tmp_path)
    Path("s.toml").write_text(settings + "\n")
    told = command(capsys, *arguments, "--config", "s.toml")
    assert told.code == 2
    assert re.search(said, told.err)


def test_one_commands_settings_file_does_not_linger(job, tmp_path, capsys):
    file = tmp_path / "settings.toml"
    file.write_text("betta = 0.1\n")
    assert command(capsys, "edit", job.model, "--out", tmp_path / "out", "--config", file).code == 2
    assert command(capsys, "edit", job.model, "--out", tmp_path / "out", *job.flags(alpha=0.1)).code == 0


# probe, lens, models


def test_probe_writes_and_describes_a_direction(job, tmp_path, capsys):
    flags = ["--comments", job.comments, "--dtype", "float32", "--json"]
    told = command(capsys, "probe", job.model, "--out", tmp_path / "toxic", *flags)
    assert told.code == 0, told.err
    said = json.loads(told.out)
    made = Direction.load(tmp_path / "toxic")
    assert made.kind == said["direction"] == "probe"  # the paper's, unlike `edit`
    assert said["norm"] == pytest.approx(made.norm)
    assert said["texts_with"] + said["texts_without"] == 120
    assert {"accuracy", "majority", "balanced_accuracy", "roc_auc"} <= set(said)
    assert Path(said["file"]) == tmp_path / "toxic.safetensors"
    assert len(said["top"]) == len(said["bottom"]) == 10
    text = command(capsys, "probe", job.model, "--out", tmp_path / "again", *flags[:-1]).out
    assert "accuracy: 0." in text or "accuracy: 1." in text
    assert "held-out texts; the larger class alone" in text
    assert "roc auc" not in text  # it has no interval
    assert f"norm: {made.norm:.4g}".replace("-", "−") in text
    assert not re.search(r"\d{6}", re.sub(r"(?m)^(fingerprint|file):.*$", "", text))
    assert "top tokens:" in text


@pytest.mark.parametrize("kind", ["mean-difference", "token-contrast"])
def test_probe_makes_other_kinds(job, tmp_path, capsys, kind):
    comments = [] if kind == "token-contrast" else ["--comments", job.comments]
    told = command(capsys, "probe", job.model, "--out", tmp_path / "toxic", "--kind", kind, *comments)
    assert told.code == 0, told.err
    assert Direction.load(tmp_path / "toxic").kind == kind.replace("-", "_")


def test_a_name_with_a_dot_is_a_name(job, tmp_path, capsys):
    """`--out toxic.v1` is a stem, and what is said about it is where it lies."""
    stem = tmp_path / "toxic.v1"
    told = command(
        capsys, "probe", job.model, "--out", stem, "--kind", "token-contrast", "--json", "--dtype", "float32"
    )
    assert Path(json.loads(told.out)["file"]).is_file()
    assert command(capsys, "lens", job.model, "--direction", stem).code == 0
    used = command(
        capsys, "edit", job.model, "--out", tmp_path / "out", *job.flags(alpha=0.1, direction=stem), "--no-controls"
    )
    assert used.code == 0, used.err


def test_lens_names_a_neuron_of_a_mixture_by_block_expert_and_index(tmp_path, capsys):
    lm = shared_mixture("mixtral")
    lm.save_pretrained(tmp_path / "model")
    flags = ["--dtype", "float32", "--device", "cpu", "--json"]
    told = command(capsys, "lens", tmp_path / "model", "--neuron", "1.3.17", *flags)
    assert told.code == 0
    expected = lens(lm, lm.model.model.layers[1].mlp.experts.down_proj[3, :, 17].detach(), k=10)[0]
    assert json.loads(told.out)["bottom"] == [mask_offensive(token) for token in expected.bottom]
    for name in ("1.17", "1.5.0", "1.0.24", "3.0.0"):
        told = command(capsys, "lens", tmp_path / "model", "--neuron", name, *flags)
        assert told.code == 2
        assert f"there is no neuron '{name}' in this mixture of experts" in told.err


def test_lens_of_a_neuron_and_a_direction(job, done, capsys):
    from dposcope.model.load import load

    lm = load(str(job.model), dtype="float32")
    flags = ["--json", "--tokens", "4", "--dtype", "float32", "--raw"]
    for arguments, vector in (
        (["--neuron", "1.5"], lm.model.model.layers[1].mlp.down_proj.weight[:, 5]),
        (["--direction", done / "direction.safetensors"], Direction.load(done / "direction").vector.float()),
    ):
        said = json.loads(command(capsys, "lens", job.model, *arguments, *flags).out)
        with torch.no_grad():
            for side, sign in (("top", 1), ("bottom", -1)):
                logits = lm.model.lm_head(lm.model.model.norm(sign * vector))
                assert said[side] == [lm.tokenizer.decode([token]) for token in logits.topk(4).indices.tolist()]


@pytest.mark.parametrize("raw", [False, True])
def test_lens_masks_offensive_words_unless_raw(job, monkeypatch, capsys, raw):
    from dposcope.data.masking import mask_offensive
    from dposcope.data.seeds import load_seeds
    from dposcope.directions.lens import Lens

    word = next(seed for seed in load_seeds().toxic if mask_offensive(seed) != seed)
    monkeypatch.setattr("dposcope.directions.lens.lens", lambda *_a, **_o: [Lens([word], ["kind"], [1.0], [1.0])])
    flags = ["--raw"] if raw else []
    for form in ([], ["--json"]):
        told = command(capsys, "lens", job.model, "--neuron", "0.1", *flags, *form)
        assert (word in told.out) == raw
        assert (mask_offensive(word) in told.out) == (not raw)
        assert "kind" in told.out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "give either --direction FILE or --neuron BLOCK.INDEX"),
        (["--neuron", "0.1", "--direction", "x"], "give either --direction FILE or --neuron BLOCK.INDEX"),
        (["--neuron", "9.9"], r"no neuron '9\.9'; blocks are 0 … 2, neurons 0 … 23, as in 3\.17"),
        (["--neuron", "0.24"], "no neuron"),
        (["--neuron", "-1.0"], "no neuron"),
        (["--neuron", "seven"], "no neuron 'seven'"),
        (["--direction", "/no/such"], r"cannot read /no/such\.json"),
        (["--neuron", "0.1", "--tokens", "0"], "--tokens. Input should be greater than or equal to 1"),
        (["--neuron", "0.1", "--tokens", "500"], "500"),
    ],
)
def test_lens_refuses(job, capsys, flags, words):
    told = command(capsys, "lens", job.model, *flags)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert re.search(words, told.err)


def make_ready(folder: Path) -> None:
    """What a bundled model's folder is known by."""
    write_json(folder / "config.json", {})
    write_json(folder / bundled._MARKS, {"config.json": mark_json(FileMark.of(folder / "config.json"))})


def test_models_are_listed(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DPOSCOPE_CACHE", str(tmp_path))
    rows = json.loads(command(capsys, "models", "--json").out)
    assert [row["name"] for row in rows] == ["gemma-3-270m", "smollm2-135m-instruct"]
    for row in rows:
        assert Path(row["folder"]).is_relative_to(tmp_path)
        assert row["ready"] is False
        assert row["licence"]
    make_ready(Path(rows[0]["folder"]))
    assert [row["ready"] for row in json.loads(command(capsys, "models", "--json").out)] == [True, False]
    text = command(capsys, "models").out
    assert "in the cache" in text
    assert "dposcope models get smollm2-135m-instruct" in text


def test_models_path_prints_the_folder_alone(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("DPOSCOPE_CACHE", str(tmp_path))
    folder = Path(json.loads(command(capsys, "models", "--json").out)[0]["folder"])
    make_ready(folder)
    told = command(capsys, "models", "path", "gemma-3-270m")
    assert (told.code, told.out, told.err) == (0, f"{folder}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["path", "gemma"], "no bundled model 'gemma'; there are gemma-3-270m, smollm2-135m-instruct"),
        (["get", "gemma"], "no bundled model 'gemma'; there are gemma-3-270m, smollm2-135m-instruct"),
        (["path", "smollm2-135m-instruct"], "not in the cache; fetch it with: dposcope models get smollm2"),
    ],
)
def test_models_refuses(capsys, monkeypatch, tmp_path, arguments, words):
    monkeypatch.setenv("DPOSCOPE_CACHE", str(tmp_path))
    told = command(capsys, "models", *arguments)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert words in told.err
    assert not list(tmp_path.iterdir())


def test_python_m_runs_the_program():
    done = subprocess.run(
        [sys.executable, "-m", "dposcope", "--version"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0
    assert done.stdout.strip()
