"""The pages of the commands are those that the program's own help makes."""

import pytest
from tools.commands import PAGES, pages

from dposcope.cli.app import app

MADE = pages()
NAMES = sorted(MADE)


def test_every_command_has_a_page_and_is_in_the_list():
    assert {path.name for path in PAGES.glob("*.md")} == {*NAMES, "index.md"}
    index = (PAGES / "index.md").read_text("utf-8")
    assert [name for name in NAMES if f"| [`{name.removesuffix('.md')}`]({name})" not in index] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_what_the_help_says(name):
    assert (PAGES / name).read_text("utf-8") == MADE[name], "run: python tools/commands.py"


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
