"""Options that a message, a docstring or a page names: each of them is there, in the command that it is said of."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App

from dposcope.cli.app import app

SOURCE = Path(__file__).parents[2] / "src" / "dposcope"
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")
GLOBAL = {"--config", "--debug", "--trust-code", "--help", "--help-all", "--version"}
"""Options that every command takes."""
OF_OTHERS = {
    "--nproc-per-node": "torchrun",
    "--merge": "llama-gguf-split",
    "--control-vector-scaled": "llama.cpp",
    "--local-dir": "hf download",
    "--private": "hf upload",
    "--force-reinstall": "pip",
    "--only-binary": "pip",
    "--no-deps": "pip",
    "--quiet": "pip",
    "--dest": "pip",
    "--fig-ink": "CSS",
    "--fig-edit": "CSS",
    "--fig-": "CSS",
}
"""Options of other programs, and names of CSS variables."""
ROOMS = {
    "jobs/edit": ("edit",),
    "jobs/tune": ("tune",),
    "jobs/evaluate": ("evaluate",),
    "jobs/explain": ("explain",),
    "jobs/pairs": ("pairs", "pairs check"),
    "jobs/dpo": ("dpo",),
    "jobs/reproduce": ("reproduce",),
    "cli/edit.py": ("edit",),
    "cli/tune.py": ("tune",),
    "cli/evaluate.py": ("evaluate",),
    "cli/explain.py": ("explain",),
    "cli/pairs.py": ("pairs", "pairs check", "pairs import"),
    "cli/dpo.py": ("dpo",),
    "cli/fold.py": ("fold",),
    "cli/directions.py": ("probe", "lens"),
    "cli/reproduce.py": ("reproduce", "report"),
    "cli/talk/generate.py": ("generate",),
    "cli/talk/chat.py": ("chat",),
    "cli/talk/serve.py": ("serve",),
    "talk": ("generate", "chat", "serve"),
    "model/chat": ("generate", "chat", "serve", "pairs", "dpo", "edit", "tune", "evaluate", "explain"),
    "shipping": ("fold",),
    "training": ("dpo",),
}
"""Code → commands that it is of. A message that names another command, as in `dposcope dpo --harmless`, is of that."""


def commands(of: App, before: str = "") -> Iterator[tuple[str, App]]:
    for name in of:
        if not name.startswith("-"):
            yield f"{before}{name}", of[name]
            yield from commands(of[name], f"{before}{name} ")


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """Command → its options."""
    return {
        name: {one for argument in command.assemble_argument_collection() for one in argument.names}
        for name, command in commands(app)
    }


def named() -> Iterator[tuple[Path, str, str]]:
    """File, option, and the text of its line before it, of every option in a string of the code."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                for found in OPTION.finditer(node.value):
                    yield path, found[0], node.value[: found.start()].rsplit("\n", 1)[-1]


def test_every_option_that_is_named_is_there(options):
    known = set.union(*options.values()) | GLOBAL | OF_OTHERS.keys()
    strange = {(path.relative_to(SOURCE).as_posix(), option) for path, option, _ in named() if option not in known}
    assert strange == set()


def test_it_is_there_in_the_command_that_it_is_said_of(options):
    strange: list[str] = []
    for path, option, before in named():
        place = path.relative_to(SOURCE).as_posix()
        own = next((of for room, of in ROOMS.items() if place.startswith(room)), None)
        said = [name for name in re.findall(r"dposcope ((?:pairs )?[a-z]+)|\b(dpo) ", before) for name in name if name]
        if said and said[-1] in options:
            own = (said[-1],)
        if own and option not in GLOBAL | OF_OTHERS.keys() and not any(option in options[one] for one in own):
            strange.append(f"{place}: {option} is not of {' or '.join(own)}")
    assert strange == []


def test_the_walk_would_find_what_is_not_there(options):
    found = [(path.name, option) for path, option, _ in named()]
    assert len(found) > 150
    assert ("ownership.py", "--out") in found
    assert "--out" in options["edit"]
    assert "--out" not in options["lens"]
    assert OPTION.findall("choose --out, or--in, ---x, a--b and --no-1-x") == ["--out", "--no-1-x"]


@pytest.mark.parametrize("page", sorted((Path(__file__).parents[2] / "docs").rglob("*.md")), ids=lambda page: page.stem)
def test_options_of_the_commands_in_the_documentation(options, page):
    """A line that begins with a command has options of it."""
    strange: list[str] = []
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^ *(dposcope [a-z].*)", text, re.MULTILINE):
        words = line.partition("  #")[0].split()
        name = " ".join(words[1:3]) if " ".join(words[1:3]) in options else words[1]
        if name in options:
            given = set(OPTION.findall(line.partition("      ")[0]))
            strange += sorted(f"{name} {option}" for option in given - options[name] - GLOBAL)
    assert strange == []
