"""The two help pages of each command: what most people need, and everything."""

import re
import shlex
from collections.abc import Iterator

import pytest
from cyclopts import App
from rich.console import Console

from dposcope.cli.app import app
from dposcope.cli.shown.help import MATTER, option_names
from helpers.jobs import command

MOST = 14
"""Options on a first page."""


def commands(of: App, before: str = "") -> Iterator[tuple[str, App]]:
    for name in of:
        if not name.startswith("-"):
            if of[name].default_command is not None:
                yield f"{before}{name}", of[name]
            yield from commands(of[name], f"{before}{name} ")


COMMANDS = dict(commands(app))


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    """Texts are not broken where a terminal would end, whatever width an earlier test had."""
    monkeypatch.setattr(app, "_console", Console(width=4000))


def shown(page: str) -> dict[str, str]:
    """Option → its row."""
    rows = (re.match(r"│ [* ]*(--[a-z0-9-]+)\b(.*)│$", line) for line in page.splitlines())
    return {row[1]: row[2].strip() for row in rows if row is not None}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_first_page_is_short_and_says_where_the_rest_is(capsys, name):
    told = command(capsys, *name.split(), "--help")
    every, here = set(option_names(COMMANDS[name])), set(shown(told.out))
    assert told.code == 0
    assert len(here) <= MOST
    assert here <= every
    last = told.out.strip().splitlines()[-1].strip()
    if more := len(every - here):
        assert last == f"{more} more options: dposcope {name} --help-all"
    else:
        assert last == "Options of every command, and exit codes: dposcope --help"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_second_page_has_every_option_with_a_sentence_and_its_default(capsys, name):
    told = command(capsys, *name.split(), "--help-all")
    rows = shown(told.out)
    assert told.code == 0
    assert set(rows) == set(option_names(COMMANDS[name]))
    assert "--help-all" not in told.out
    for option, row in rows.items():
        sentence = re.sub(r"^(--no-[a-z-]+|[A-Z]+(\.\.\.)?|\[?[A-Z ]+\]?)*\s*", "", row)
        assert len(sentence.split()) >= 3, (option, row)
        assert re.search(r"\.\s", f"{sentence} "), (option, row)
        assert re.search(r"\[default: |\[required\]|Default: |Default, ", row), (option, row)


@pytest.mark.parametrize("name", MATTER)
def test_what_the_first_page_shows_is_there(capsys, name):
    """A name that no option has would never be missed."""
    assert set(MATTER[name]) == set(shown(command(capsys, *name.split(), "--help").out))


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_stand_on_top_and_are_taken_as_printed(capsys, name):
    page = command(capsys, *name.split(), "--help").out
    top = page.partition("╭")[0]
    examples = [line.strip() for line in top.splitlines() if line.startswith("dposcope ")]
    assert any(f"{line} ".startswith(f"dposcope {name} ") for line in examples)
    for line in examples:
        app.parse_args(shlex.split(line)[1:], exit_on_error=False, print_error=False)


def test_a_hidden_option_still_counts(capsys, tmp_path):
    """What the first page leaves out is refused and taken as ever."""
    assert "--beta" not in shown(command(capsys, "edit", "--help").out)
    told = command(capsys, "edit", "tiny", "--out", tmp_path / "out", "--beta", "7")
    assert told.code == 2
    assert "--beta" in told.err


def test_the_programs_own_page_is_one(capsys):
    assert command(capsys, "--help").out == command(capsys, "--help-all").out
    assert "First steps" in command(capsys, "--help").out
