"""The pages of the commands are those that the program's own help makes."""

import re
from importlib.metadata import version

import pytest
from tools.commands import PAGES, pages

from dposcope.cli.app import app

NAMES = sorted(f"{name}.md" for name in app if not name.startswith("-"))
PINNED = re.findall(r"^cyclopts==(.+)$", (PAGES.parents[1] / "constraints.txt").read_text("utf-8"), flags=re.M)


def test_every_command_has_a_page_and_is_in_the_list():
    assert {path.name for path in PAGES.glob("*.md")} == {*NAMES, "index.md"}
    index = (PAGES / "index.md").read_text("utf-8")
    assert [name for name in NAMES if f"| [`{name.removesuffix('.md')}`]({name})" not in index] == []


@pytest.mark.skipif([version("cyclopts")] != PINNED, reason="the pages are written with the pinned version of cyclopts")
def test_a_page_says_what_the_help_says():
    made = pages()
    assert sorted(made) == NAMES
    assert [name for name in NAMES if (PAGES / name).read_text("utf-8") != made[name]] == [], (
        "run: PYTHONPATH=. python tools/commands.py"
    )


def test_a_page_has_every_option_of_its_command_and_of_those_below():
    for path in ((name.removesuffix(".md"),) for name in NAMES):
        command = app[path[0]]
        below = [command, *(command[name] for name in command if not name.startswith("-"))]
        options = {
            name
            for one in below
            if one.default_command is not None
            for option in one.assemble_argument_collection(parse_docstring=False)
            if not option.children
            for name in option.names
            if name.startswith("--")
        }
        page = (PAGES / f"{path[0]}.md").read_text("utf-8")
        assert [name for name in sorted(options) if name not in page] == []
