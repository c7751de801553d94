"""The pretence of `helpers/parsed.py`: a command line leaves no mark on the options of the next one."""

import pytest
from cyclopts import App

from dposcope.cli.app import app
from helpers.jobs import command
from helpers.parsed import read_once, unused


def told(options) -> list:
    return [(one.names, one.hint, one.keys, one.index, one.parameter, one.tokens, len(one.children)) for one in options]


@pytest.mark.parametrize("docstrings", [False, True])
@pytest.mark.parametrize("name", ["edit", "explain", "dpo", "reproduce", "generate", "fold", "lens"])
def test_options_are_what_the_signature_says(capsys, name, docstrings):
    for _ in range(2):
        assert command(capsys, name, "--limit", "7", "--seed", "x", "--nothing").code == 2
    given = app[name].assemble_argument_collection(parse_docstring=docstrings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(App, "assemble_argument_collection", App.assemble_argument_collection.__wrapped__)
        whole = app[name].assemble_argument_collection(parse_docstring=docstrings)
    assert told(given) == told(whole)
    assert not any(one.tokens for one in given)


def test_a_copy_shares_no_place_for_what_is_given():
    whole = app["edit"].assemble_argument_collection()
    copied = unused(whole)
    assert [one.names for one in copied] == [one.names for one in whole]
    children = [child for one in copied for child in one.children]
    assert children
    assert {id(child) for child in children} <= {id(one) for one in copied}
    for one in copied:
        one.tokens.append("given")
        one.children.clear()
    assert not any(one.tokens for one in whole)
    assert any(one.children for one in whole)


def test_a_command_of_its_own_is_read_for_itself():
    def made(function) -> App:
        own = App()
        own.default(function)
        return own

    def first(*, one: int = 1) -> None: ...

    def second(*, two: str = "x") -> None: ...

    with read_once():
        names = [
            [name for one in made(what).assemble_argument_collection() for name in one.names]
            for what in (first, second)
        ]
        assert names == [["--one"], ["--two"]]
        changed = made(first)
        assert changed.assemble_argument_collection() is not changed.assemble_argument_collection()
