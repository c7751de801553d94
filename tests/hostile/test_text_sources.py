"""Every source of text that is not ours: what a file or a name says reaches people without acting on their terminal."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.numpy import save_file

from dposcope.artefacts import read_sealed, sealed, write_json
from dposcope.errors import DposcopeError
from dposcope.interventions.ablate import ablate
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.jobs.ownership import marked
from helpers.families import random_direction, random_gains, tiny
from helpers.foreign import HOSTILE, assert_inert
from helpers.jobs import Job, command, contents, make_job, write_csv, write_jsonl

pytestmark = pytest.mark.usefixtures("light")

TEXTS = {
    "sequences": "".join(HOSTILE[what] for what in ("colour", "clear", "window title", "hyperlink", "rich")),
    "controls": "".join(HOSTILE[what] for what in ("C1", "bell and backspace", "carriage return", "separators")),
    "unseen": "".join(HOSTILE[what] for what in ("bidi", "zero width", "tags", "noncharacters")),
}
NAMES = {what: text.replace("/", ";") for what, text in TEXTS.items()}
"""What a file can be called."""
HALF = HOSTILE["surrogates"]
"""Which JSON and file names can hold."""


@dataclass(frozen=True)
class Ground:
    """What commands read."""

    job: Job
    edit: Path
    """Its stem."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Ground:
    folder = tmp_path_factory.mktemp("ground")
    job, lm = make_job(folder), tiny("llama")
    Edit.of(Gains(random_gains(lm)), ablate(random_direction(lm))).save(folder / "edit")
    return Ground(job, folder / "edit")


Source = Callable[[Ground, Path, str], list[object]]
"""Puts the text into its place below a folder, and gives a command that meets it there."""


def model(ground: Ground, folder: Path, **files: Callable[[Path], None]) -> Path:
    """A copy of the model with some of its files changed, by names in which `_` stands for the dot."""
    shutil.copytree(ground.job.model, folder / "model")
    for name, change in files.items():
        change(folder / "model" / name.replace("__", "."))
    return folder / "model"


def with_json(**values: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return change


def edited(ground: Ground, folder: Path, **values: object) -> Path:
    """A copy of the edit whose JSON says something else, and has the digest that belongs to it."""
    for suffix in (".safetensors", ".json"):
        shutil.copy(ground.edit.with_suffix(suffix), folder / f"edit{suffix}")
    about = folder / "edit.json"
    write_json(about, sealed({**read_sealed(about, dict[str, Any]), **values}))
    return folder / "edit"


def toml(text: str) -> str:
    """A string of TOML, in ASCII."""
    plain = "".join(char if " " <= char <= "~" and char not in '\\"' else f"\\U{ord(char):08x}" for char in text)
    return f'"{plain}"'


def lens(path: object) -> list[object]:
    return ["lens", path, "--neuron", "0.1", "--dtype", "float32"]


def csv_column(_: Ground, folder: Path, text: str) -> list[object]:
    return ["pairs", "check", write_csv(folder / "pairs.csv", [text, "b"], [["x", "y"]])]


def jsonl_key(_: Ground, folder: Path, text: str) -> list[object]:
    return ["pairs", "check", write_jsonl(folder / "pairs.jsonl", [{text: "x", "b": "y"}])]


def twice_in_a_header(_: Ground, folder: Path, text: str) -> list[object]:
    return ["pairs", "check", write_csv(folder / "pairs.csv", [text, text], [["x", "y"]])]


def column_of_comments(ground: Ground, folder: Path, text: str) -> list[object]:
    comments = write_csv(folder / "comments.csv", [text, "toxic"], [["x", "1"]])
    return ["probe", ground.job.model, "--comments", comments, "--out", folder / "out"]


def label_of_comments(ground: Ground, folder: Path, text: str) -> list[object]:
    comments = write_csv(folder / "comments.csv", ["comment_text", "toxic"], [["x", text], ["y", "1"]])
    return ["probe", ground.job.model, "--comments", comments, "--out", folder / "out"]


def model_type(ground: Ground, folder: Path, text: str) -> list[object]:
    return lens(model(ground, folder, config__json=with_json(model_type=text)))


def model_type_folded(ground: Ground, folder: Path, text: str) -> list[object]:
    found = model(ground, folder, config__json=with_json(model_type=text))
    return ["fold", found, "--edit", ground.edit, "--out", folder / "out"]


def quantisation(ground: Ground, folder: Path, text: str) -> list[object]:
    found = model(ground, folder, config__json=with_json(quantization_config={"quant_method": text}))
    return ["fold", found, "--edit", ground.edit, "--out", folder / "out"]


def index_entry(ground: Ground, folder: Path, text: str) -> list[object]:
    found = model(ground, folder, model__safetensors=Path.unlink)
    (found / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a.weight": text}}))
    return ["fold", found, "--edit", ground.edit, "--out", folder / "out"]


def tensor_name(ground: Ground, folder: Path, text: str) -> list[object]:
    found = model(ground, folder, model__safetensors=Path.unlink)
    save_file({text: np.zeros(2, np.uint16)}, found / "model.safetensors")
    return ["fold", found, "--edit", ground.edit, "--out", folder / "out"]


def tensor_name_loaded(ground: Ground, folder: Path, text: str) -> list[object]:
    found = model(ground, folder, model__safetensors=Path.unlink)
    save_file({text: np.zeros(2, np.float32)}, found / "model.safetensors", metadata={"format": "pt"})
    return lens(found)


def peft_kind(ground: Ground, folder: Path, text: str) -> list[object]:
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": text}))
    return ["explain", ground.job.model, adapter, *ground.job.flags(), "--out", folder / "out"]


def concept_name(ground: Ground, folder: Path, text: str) -> list[object]:
    (folder / "c.toml").write_text(
        f'name = {toml(text)}\ncomments = "c.csv"\nprompts = "p.csv"\nscorer = "vader"\nseeds-with = ["a"]\n'
    )
    return ["edit", ground.job.model, "--concept", folder / "c.toml", "--out", folder / "out"]


def concept_field(ground: Ground, folder: Path, text: str) -> list[object]:
    (folder / "c.toml").write_text(f"{toml(text)} = 1\n")
    return ["edit", ground.job.model, "--concept", folder / "c.toml", "--out", folder / "out"]


def setting(ground: Ground, folder: Path, text: str) -> list[object]:
    (folder / "s.json").write_text(json.dumps({text: text}))
    return ["edit", ground.job.model, "--config", folder / "s.json", "--out", folder / "out"]


def value_of_a_setting(ground: Ground, folder: Path, text: str) -> list[object]:
    (folder / "s.json").write_text(json.dumps({"beta": text}))
    return ["edit", ground.job.model, "--config", folder / "s.json", "--out", folder / "out"]


def preset_field(_: Ground, folder: Path, text: str) -> list[object]:
    (folder / "p.toml").write_text(f"{toml(text)} = 1\n")
    return ["reproduce", "--preset", folder / "p.toml", "--out", folder / "out"]


def command_of_a_run(ground: Ground, folder: Path, text: str) -> list[object]:
    return [*run(ground, folder, command=text, settings={}), "--out", folder / "out"]


def settings_of_a_run(ground: Ground, folder: Path, text: str) -> list[object]:
    return [*run(ground, folder, command="edit", settings={text: text}), "--out", folder / "out"]


def run(ground: Ground, folder: Path, **facts: object) -> list[object]:
    """A folder that says it holds a run."""
    (folder / "out" / "stages").mkdir(parents=True)
    (folder / "out" / "stages" / "means.json").write_text("{}")
    told = marked("dposcope run", {"free": {}, "versions": {}, **facts})
    (folder / "out" / "run.json").write_text(json.dumps(told))
    (folder / "out" / ".lock").touch()
    return ["edit", ground.job.model, *ground.job.flags()]


def kind_of_a_value(ground: Ground, folder: Path, text: str) -> list[object]:
    return ["fold", ground.job.model, "--edit", edited(ground, folder, kind=text), "--out", folder / "out"]


def fingerprint(ground: Ground, folder: Path, text: str) -> list[object]:
    edit = edited(ground, folder, about={"fingerprint": f"{text}-00ff"})
    return ["fold", ground.job.model, "--edit", edit, "--out", folder / "out"]


def negative_control(ground: Ground, folder: Path, text: str) -> list[object]:
    edit = edited(ground, folder, about={"negative_control": text})
    return ["fold", ground.job.model, "--edit", edit, "--out", folder / "out"]


def trained(ground: Ground, folder: Path, text: str) -> list[object]:
    return ["fold", ground.job.model, "--edit", edited(ground, folder, trained=text), "--out", folder / "out"]


def condition_name(ground: Ground, folder: Path, text: str) -> list[object]:
    return ["evaluate", ground.job.model, *ground.job.flags(condition=f"{text}=scale:alpha=x"), "--out", folder / "out"]


def scorer_name(_: Ground, folder: Path, text: str) -> list[object]:
    pairs = write_jsonl(folder / "p.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    return ["pairs", "check", pairs, "--scorer", text]


def option(ground: Ground, folder: Path, text: str) -> list[object]:
    return ["edit", ground.job.model, f"--{text}", "1", "--out", folder / "out"]


def unknown_command(_: Ground, folder: Path, text: str) -> list[object]:
    return [text]


def hub_name(_: Ground, folder: Path, text: str) -> list[object]:
    return lens(text)


def gguf_architecture(ground: Ground, folder: Path, text: str) -> list[object]:
    writer = GGUFWriter(folder / "m.gguf", text)
    writer.add_block_count(3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ["fold", folder / "m.gguf", "--edit", ground.edit, "--gains-alone", "--out", folder / "o.gguf"]


def gguf_architecture_loaded(ground: Ground, folder: Path, text: str) -> list[object]:
    return lens(gguf_architecture(ground, folder, text)[1])


def missing_file(_: Ground, folder: Path, text: str) -> list[object]:
    (folder / f"{text.replace('/', ';')}1.jsonl").touch()
    return ["pairs", "check", folder / f"{text.replace('/', ';')}.jsonl"]


def missing_model(_: Ground, folder: Path, text: str) -> list[object]:
    return lens(folder / text.replace("/", ";"))


def folder_that_is_taken(ground: Ground, folder: Path, text: str) -> list[object]:
    out = folder / text.replace("/", ";")
    out.mkdir()
    return ["fold", ground.job.model, "--edit", ground.edit, "--out", out]


def link_of_a_model(ground: Ground, folder: Path, text: str) -> list[object]:
    (folder / text.replace("/", ";")).write_text("mine")
    found = model(ground, folder)
    (found / "chat_template.jinja").symlink_to(folder / text.replace("/", ";"))
    return lens(found)


SOURCES: tuple[Source, ...] = (
    csv_column, jsonl_key, twice_in_a_header, column_of_comments,
    label_of_comments, model_type, model_type_folded, quantisation,
    index_entry, tensor_name, tensor_name_loaded, peft_kind,
    concept_name, concept_field, setting, value_of_a_setting,
    preset_field, command_of_a_run, settings_of_a_run, kind_of_a_value,
    fingerprint, negative_control, trained, condition_name,
    scorer_name, option, unknown_command, hub_name,
    gguf_architecture, gguf_architecture_loaded, missing_file, missing_model,
    folder_that_is_taken, link_of_a_model,
)  # fmt: skip
REFUSED = {source.__name__.replace("_", " "): source for source in SOURCES}
"""Sources that a command refuses, telling what it found."""
HOLDS_HALVES = {"jsonl key", "setting", "value of a setting", "settings of a run", "fingerprint", "index entry"}
"""Of these, some whose text comes from JSON."""
CASES = [
    *((source, what, text) for source in REFUSED for what, text in TEXTS.items()),
    *((source, "surrogates", HALF) for source in sorted(HOLDS_HALVES)),
]


def told_by(capsys, arguments: list[object]):
    told = command(capsys, *arguments)
    assert_inert(told.out)
    assert_inert(told.err)
    assert "Traceback" not in told.err
    return told


@pytest.mark.parametrize(("source", "text"), [pytest.param(s, t, id=f"{s}: {w}") for s, w, t in CASES])
def test_what_is_refused_is_told_in_one_line_that_does_nothing(ground, tmp_path, capsys, source, text):
    arguments = REFUSED[source](ground, tmp_path, text)
    before = contents(tmp_path)
    told = told_by(capsys, arguments)
    assert (told.code, told.out, told.err.count("\n")) == (2, "", 1), told
    assert told.err.startswith("dposcope: ")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("error", [DposcopeError, RuntimeError, OSError, ValueError, KeyError])
def test_what_a_library_says_is_told_so_too(ground, tmp_path, capsys, monkeypatch, error, text):
    def fail(*_: object, **__: object) -> None:
        raise DposcopeError(f"cannot load it: {error(text)}") from error(text)

    monkeypatch.setattr("dposcope.jobs.edit.job.run_edit", fail)
    told = told_by(capsys, ["edit", ground.job.model, "--out", tmp_path / "out"])
    assert (told.code, told.err.count("\n")) == (2, 1)


# What is done and tells


@pytest.mark.parametrize("text", [*TEXTS.values(), HOSTILE["HTML"]], ids=[*TEXTS, "HTML"])
@pytest.mark.parametrize("form", [[], ["--json"]], ids=["lines", "JSON"])
def test_tokens_are_shown_inert(ground, tmp_path, capsys, text, form):
    def rename(path: Path) -> None:
        told = json.loads(path.read_text())
        old = told["added_tokens"][0]["content"]
        told["added_tokens"][0]["content"] = text
        told["model"]["vocab"][text] = told["model"]["vocab"].pop(old)
        path.write_text(json.dumps(told))

    found = model(ground, tmp_path, tokenizer__json=rename)
    told = told_by(capsys, [*lens(found), "--tokens", 96, *form])
    assert told.code == 0, told.err
    if form:
        assert text in json.loads(told.out)["top"]


@pytest.mark.parametrize("text", [*NAMES.values(), "caf\udce9"], ids=[*NAMES, "bytes"])
def test_paths_are_told_inert(ground, tmp_path, capsys, text):
    pairs = write_jsonl(tmp_path / "p.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    made = tmp_path / f"{text[:60]}.jsonl"
    for form in ([], ["--json"]):
        made.unlink(missing_ok=True)
        told = told_by(capsys, ["pairs", "import", pairs, "--out", made, *form])
        assert told.code == 0, told.err
        assert made.is_file()
    assert json.loads(told.out)["file"] == str(made)
    assert told_by(capsys, ["pairs", "check", made]).code == 0


@pytest.mark.parametrize("text", [*NAMES.values(), "caf\udce9"], ids=[*NAMES, "bytes"])
def test_files_left_out_of_a_folded_model_are_told_inert(ground, tmp_path, capsys, text):
    found = model(ground, tmp_path)
    (found / f"{text[:60]}.dat").touch()
    told = told_by(capsys, ["fold", found, "--edit", ground.edit, "--out", tmp_path / "out"])
    assert told.code == 0, told.err
    assert "not copied, as no checkpoint has them: " in told.out


@pytest.mark.parametrize(
    "text", [*TEXTS.values(), HOSTILE["Markdown"], HOSTILE["YAML"]], ids=[*TEXTS, "Markdown", "YAML"]
)
@pytest.mark.parametrize("form", ["checkpoint", "adapters"])
def test_what_an_edit_says_of_itself_is_listed_inert(ground, tmp_path, capsys, form, text):
    edit = edited(ground, tmp_path, about={text: text, "model": text, "list": [text], "beta": text})
    found = model(ground, tmp_path)
    told = told_by(capsys, ["fold", found, "--edit", edit, "--form", form, "--out", tmp_path / "out"])
    assert told.code == 0, told.err
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert_inert(card)
    assert card.count("\n---\n") == 1
    assert ("told by whoever made it, not measured here" in card) == (form == "checkpoint")


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_title_of_a_preset_is_shown_inert(tmp_path, capsys, text):
    smoke = resources.files("dposcope.jobs.reproduce").joinpath("presets/smoke.toml").read_text("utf-8")
    lines = [line for line in smoke.splitlines() if not line.startswith("title")]
    (tmp_path / "p.toml").write_text("\n".join([f"title = {toml(text)}", *lines]))
    for form in ([], ["--json"]):
        told = told_by(
            capsys, ["reproduce", "--preset", tmp_path / "p.toml", "--out", tmp_path / "out", "--dry-run", *form]
        )
        assert told.code == 0, told.err


@pytest.mark.parametrize("text", NAMES.values(), ids=NAMES)
def test_the_environment_is_told_inert(tmp_path, capsys, monkeypatch, text):
    monkeypatch.setenv("DPOSCOPE_CACHE", str(tmp_path / text[:60]))
    for arguments in (["models"], ["models", "--json"], ["models", "path", "smollm2-135m-instruct"]):
        told_by(capsys, arguments)
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        with monkeypatch.context() as patch:
            patch.setenv(name, text)
            told_by(capsys, ["edit", "m", "--out", tmp_path / "out"])


@pytest.mark.slow
@pytest.mark.parametrize("text", [*TEXTS.values(), HOSTILE["HTML"]], ids=[*TEXTS, "HTML"])
def test_a_strangers_run_is_reported_inert(reproduced, tmp_path, capsys, text):
    """Every text in the files that a report reads is the stranger's, and nothing vouches for them."""
    source = next(reproduced.glob("*/*/explain-*"))
    shutil.copytree(source, tmp_path / "theirs")
    (tmp_path / "theirs" / "run.json").unlink()
    changed = 0
    for name in ("explain.json", "scores.json", "tables.json"):
        file = tmp_path / "theirs" / name
        written = json.dumps(poisoned(json.loads(file.read_text("utf-8")), text))
        changed += written.count(json.dumps(text)[1:-1])
        file.write_text(written)
    assert changed > 20
    told = told_by(capsys, ["report", tmp_path / "theirs", "--out", tmp_path / "out", "--title", text])
    assert told.code == 0, told.err
    files = [file for file in (tmp_path / "out").rglob("*") if file.suffix in {".html", ".md", ".csv", ".tex", ".json"}]
    assert len(files) > 10
    for file in files:
        written = file.read_text("utf-8")
        assert_inert(written.replace("\u200c", "").replace("\u200d", ""))
        assert not re.search(r"(?<!\\)<img src=x", written) or file.suffix in {".csv", ".json"}


def poisoned(value: object, text: str) -> object:
    """With the text at the end of every sentence."""
    match value:
        case dict():
            return {key: poisoned(one, text) for key, one in value.items()}
        case list():
            return [poisoned(one, text) for one in value]
        case str() if value.count(" ") > 5:  # shorter ones name formats and kinds
            return value + text
        case _:
            return value


@pytest.mark.slow
def test_a_report_of_folders_with_names_that_are_no_text(reproduced, tmp_path, capsys):
    source = next(reproduced.glob("*/*/explain-*"))
    theirs = tmp_path / os.fsdecode(b"caf\xe9")
    shutil.copytree(source, theirs)
    told = told_by(capsys, ["report", theirs, "--out", tmp_path / "out"])
    assert told.code == 0, told.err
    assert r"caf\xe9" in (tmp_path / "out/report.html").read_text("utf-8")
    assert "caf%E9/report.html" in (tmp_path / "out/report.html").read_text("utf-8")


def test_a_model_in_a_folder_whose_name_acts(ground, tmp_path, capsys):
    """Its name stands in tables and pages, and is text."""
    from dposcope.model.load import load

    place = tmp_path / "\x1b[31mred\u202e"
    shutil.copytree(ground.job.model, place)
    assert load(str(place), dtype="float32", device="cpu").name == "␛[31mredU+202E"
    assert torch.get_num_threads() >= 1
