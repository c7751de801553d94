"""Every block of code of the README and of the documentation works.

Lines of Python are run, with a tiny model in the place of the bundled one. Commands of dposcope are parsed, so that
every option exists and has a value that it takes; those of others are looked up where they are defined.
"""

import contextlib
import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from cyclopts import CycloptsError
from transformers import AutoModelForCausalLM

import dposcope as ds
from dposcope.cli.app import app
from helpers.changes import tuned_copy
from helpers.chats import PLAIN, with_template
from helpers.gguf_files import write
from helpers.jobs import make_job
from helpers.preferences import pairs_file

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.parent.name != "commands"),
]
KINDS = {"sh", "python", "toml", "json", "text"}
"""Of blocks; `text` is what a program prints, or a drawing. TOML and JSON are read."""


@dataclass(frozen=True)
class Block:
    """One block of code."""

    page: Path
    line: int
    kind: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text("utf-8")
        for found in re.finditer(r"^```(\S*)\n(.*?)^```$", text, re.S | re.M):
            yield Block(page, text[: found.start()].count("\n") + 1, found[1], found[2])


BLOCKS = [*blocks()]
SHELL = [block for block in BLOCKS if block.kind == "sh"]
PYTHON = [block for block in BLOCKS if block.kind == "python"]


def test_every_block_says_what_it_is():
    assert [block.name for block in BLOCKS if block.kind not in KINDS] == []


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.kind in ("toml", "json")], ids=lambda block: block.name)
def test_it_can_be_read(block):
    assert {"toml": tomllib.loads, "json": json.loads}[block.kind](block.text)


# Commands


def commands(text: str, before: str = "") -> Iterator[list[str]]:
    """The words of each command of a shell's lines, with the values of variables that they set, or the lines before."""
    setting = re.compile(r'^([A-Z]+)="([^"]*)"$', re.M)
    text = re.sub(r"\\\n\s*", " ", text)
    for name, value in setting.findall(before + text):
        text = text.replace(f"${name}", " ".join(value.split()))
    for line in setting.sub("", text).splitlines():
        words = shlex.split(re.sub(r"(^|\s)#.*", "", line))
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if words:
            yield words


def check(words: list[str]) -> None:
    """Whether a command exists with its options; an error says what does not."""
    program, *rest = words
    name = Path(program).name
    if "…" in " ".join(words):
        raise AssertionError("it has a … that nobody can type")
    if name in ("time", "nice"):
        check([word for word in rest if word != "-v"])
    elif name in ("torchrun", "accelerate"):
        check(rest[rest.index("-m") + 1 :])
    elif name == "dposcope":
        parsed(rest)
    elif name == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), flags=re.M)
        assert {word for word in rest if "=" not in word} <= {*targets}
    elif name == "pip":
        assert rest[0] == "install"
        known = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
        for extras in re.findall(r"\[([a-z,]+)\]", " ".join(rest)):
            assert {*extras.split(",")} <= known.keys()
    elif name == "python" and rest[0] == "-m":
        assert rest[1] == "venv" or options_of(ROOT / rest[1].replace(".", "/"), rest[2:])
    elif name == "python":
        assert options_of(ROOT / rest[0], rest[1:])
    else:
        assert name in ("export", "source", "git", "cd", "pytest", "hf", "jupyter"), f"{name} is not known here"


def parsed(words: list[str]) -> None:
    words = [word for word in words if word not in ("--debug", "--trust-code")]
    if "--config" in words:
        place = words.index("--config")
        words = [*words[:place], *words[place + 2 :]]
    try:
        app.parse_args(words, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise AssertionError(f"dposcope {shlex.join(words)}: {error}") from error


def options_of(script: Path, words: list[str]) -> bool:
    """Whether a script or package is there and names every option, or a module beside it that it imports."""
    if script.is_dir():
        text = "".join(path.read_text("utf-8") for path in script.glob("*.py"))
    else:
        text = script.with_suffix(".py").read_text("utf-8")
        for module in re.findall(r"^from (\w[\w.]*) import", text, flags=re.M):
            path = (ROOT if module.startswith("benchmarks") else script.parent) / (module.replace(".", "/") + ".py")
            text += path.read_text("utf-8") if path.exists() else ""
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    missing = [one for one in options if f'"{one}"' not in text and f'"{one.removeprefix("--")}"' not in text]
    assert missing == [], f"{script.name} has no {missing}"
    return True


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.name)
def test_its_commands_and_options_exist(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for one in BLOCKS:  # files that a page shows
        if one.kind == "toml" and (named := re.match(r"# (\S+\.toml)\n", one.text)):
            Path(named[1]).write_text(one.text, "utf-8")
    before = "".join(one.text for one in SHELL if one.page == block.page and one.line < block.line)
    for words in commands(block.text, before):
        check(words)


@pytest.mark.parametrize(
    "line",
    [
        "dposcope edit MODEL --out runs/x --no-such-option 3",
        "dposcope edit MODEL --out runs/x --mix sideways",
        "dposcope nothing MODEL",
        "dposcope edit MODEL … --out runs/x",
        "make nothing",
        "pip install 'dposcope[nothing]'",
        "python benchmarks/nothing.py",
        "python benchmarks/yardstick.py --no-such-option",
        "unknown-program x",
    ],
)
def test_a_command_that_does_not_exist_is_found(line):
    with pytest.raises((AssertionError, OSError)):
        [check(words) for words in commands(line)]


def test_variables_and_continued_lines_are_read():
    lines = 'DATA="--prompts a\n  --neutral b"\nX=1 dposcope edit M $DATA \\\n  --out c  # why'
    assert [*commands(lines)] == [["dposcope", "edit", "M", "--prompts", "a", "--neutral", "b", "--out", "c"]]


# Python


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Path:
    """A folder with the files that pages name."""
    folder = tmp_path_factory.mktemp("ground")
    job = make_job(folder, windows=40)
    lm = ds.load(str(job.model), dtype="float32", device="cpu")
    tuned_copy(lm).save_pretrained(folder / "runs" / "dpo" / "model")
    for name in ("checkpoint", "folder-of-mymodel"):
        lm.save_pretrained(folder / name)
    with_template(lm, PLAIN).save_pretrained(folder / "chat")
    write(lm, folder / "model.gguf", "F32")
    gains(lm).save(folder / "runs" / "tuned" / "edit")
    both = ds.Edit.of(gains(lm), ds.ablate(torch.ones(lm.d_model)))
    ds.write_adapters(folder / "checkpoint", both, folder / "adapters")
    pairs_file(folder / "pairs.jsonl")
    (folder / "wiki-train.txt").write_text(job.neutral.read_text("utf-8"), "utf-8")
    return folder


def gains(lm: ds.LanguageModel) -> ds.Edit:
    return ds.Edit.of(ds.Gains(torch.linspace(0.5, 1.5, lm.n_neurons).reshape(lm.n_blocks, -1)))


def small(lines: str, model: Path) -> str:
    """The same lines with a tiny model and little data."""
    tiny = f'{str(model)!r}, dtype="float32"'
    for whole, part in (
        ('ds.shipped_edit("gemma-3-270m")', 'ds.Edit.load("runs/tuned/edit")'),
        ('ds.load("gemma-3-270m")', f"ds.load({tiny})"),
        ('ds.load("smollm2-135m-instruct")', 'ds.load("chat", dtype="float32")'),
        ('ds.load("runs/dpo/model", base=base)', 'ds.load("runs/dpo/model", base=base, dtype="float32")'),
        ("ds.load_prompts(None)", "ds.load_prompts(None, limit=24)"),
        ("ds.load_passages(None, limit=20)", "ds.load_passages(None, limit=2)"),
        ("count=512", "count=4"),
        ("steps=95", "steps=2"),
        ("split(28,", "split(2,"),
    ):
        lines = lines.replace(whole, part)
    return lines


ELSEWHERE = {"docs/how-to/own-concept.md": "test_own_concept.py"}
"""Page → the test that runs its lines, as they need files of their own."""


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own
@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
@pytest.mark.parametrize(
    "block",
    [block for block in PYTHON if block.page.relative_to(ROOT).as_posix() not in ELSEWHERE],
    ids=lambda block: block.name,
)
def test_its_lines_run(block, ground, monkeypatch, tmp_path):
    monkeypatch.chdir(shutil.copytree(ground, tmp_path / "folder"))  # a block may leave files
    base = AutoModelForCausalLM.from_pretrained(ground / "model")  # for lines that begin with a loaded model
    names: dict[str, object] = {"__name__": "page", "base": base}
    with contextlib.redirect_stdout(sys.stderr):
        exec(compile(small(block.text, ground / "model"), block.name, "exec"), names)
