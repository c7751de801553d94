"""The one way out: nothing else writes to a stream, and what goes through it is inert."""

import ast
import io
import json
import logging
import sys
import warnings
from pathlib import Path

import pytest
from rich.console import Console

from dposcope import terminal
from dposcope.errors import SmallerBatches
from dposcope.terminal import cell, complain, lenient_streams, only_our_words, print_json, say, show_traceback

SOURCE = Path(terminal.__file__).parent
WRITERS = {
    "terminal.py",
    "cli/console.py",
    "cli/failure.py",  # a line break below the ^C, and whether the reader is gone
    "model/quiet.py",  # what libraries write goes nowhere
}
"""Files that may name a stream."""
DRAWERS = {"terminal.py", "cli/console.py", "cli/shown/help.py"}
"""Files that may use rich, whose strings are markup."""


SILENCERS = {"terminal.py", "model/quantised/loading.py"}
"""Files that may use logging: they silence what libraries log."""


def names(path: Path) -> set[str]:
    """What a file names that writes: `print`, a stream of `sys`, and modules that draw or log."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                found.add("print")
            case ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr" | "__stdout__" | "__stderr__"):
                found.add("stream")
            case ast.Attribute(value=ast.Name(id="os"), attr="write"):
                found.add("descriptor")
            case ast.ImportFrom(module="sys", names=imported):
                found |= {"stream" for one in imported if "std" in one.name}
            case ast.ImportFrom(module="contextlib", names=imported):
                found |= {"stream" for one in imported if one.name.startswith("redirect_")}
            case ast.ImportFrom(module=str(module)):
                found.add(module.partition(".")[0])
            case ast.Import(names=imported):
                found |= {one.name.partition(".")[0] for one in imported}
            case _:
                pass
    return found


@pytest.fixture(scope="module")
def written() -> dict[str, set[str]]:
    """File → what it names."""
    return {path.relative_to(SOURCE).as_posix(): names(path) for path in sorted(SOURCE.rglob("*.py"))}


def test_no_other_file_writes_to_a_stream(written):
    assert {name for name, found in written.items() if "print" in found} == set()
    assert {name for name, found in written.items() if "stream" in found} == WRITERS
    assert {name for name, found in written.items() if "descriptor" in found} == {"__main__.py"}
    assert {name for name, found in written.items() if "rich" in found} == DRAWERS
    assert {name for name, found in written.items() if "logging" in found} == SILENCERS


def test_a_way_round_would_be_seen(tmp_path):
    file = tmp_path / "round.py"
    for line, seen in {
        "print(1)": "print",
        "import sys; sys.stderr.write('x')": "stream",
        "from sys import stdout": "stream",
        "from contextlib import redirect_stdout": "stream",
        "import os; os.write(2, b'x')": "descriptor",
        "from rich.console import Console": "rich",
        "import rich": "rich",
    }.items():
        file.write_text(line)
        assert seen in names(file), line


@pytest.fixture
def drawn(monkeypatch):
    """A terminal of 60 columns."""
    stream = io.StringIO()
    options = {"highlight": False, "soft_wrap": False, "markup": False, "emoji": False}
    monkeypatch.setattr(terminal, "out", Console(file=stream, width=60, **options))
    return stream


def test_a_line_is_not_broken_and_is_no_markup(drawn):
    say("[red]x[/red] :smile: " + "y" * 100)
    assert drawn.getvalue() == "[red]x[/red] :smile: " + "y" * 100 + "\n"


def test_a_line_stays_one(drawn):
    say("a\nb\x1b[31mc")
    assert drawn.getvalue() == "a↵b␛[31mc\n"


def test_a_cell_breaks_where_it_says_and_nowhere_else():
    assert cell("a\nb\rc").plain == "a\nb␍c"


def test_json_is_json(capsys):
    print_json({"a": [1, None, "ü"], "b": {"c": 0.1}})
    text = capsys.readouterr().out
    assert json.loads(text) == {"a": [1, None, "ü"], "b": {"c": 0.1}}
    assert "ü" in text


def test_json_escapes_what_acts_and_keeps_its_value(capsys):
    value = {"\x1b": "\x9b\u202e\u2028\ud800\x7f\U000e0041"}
    print_json(value)
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == value


def test_a_complaint_is_one_line(capsys):
    complain("a\n  b\x07")
    assert capsys.readouterr().err == "dposcope: a b␇\n"


def test_a_traceback_says_where_and_is_inert(capsys):
    try:
        raise RuntimeError("what\x1b[2J")
    except RuntimeError as error:
        show_traceback(type(error), error, error.__traceback__)
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last):\n")
    assert told.endswith("RuntimeError: what␛[2J\n")
    assert __file__ in told


def test_libraries_say_nothing_and_are_heard_again_after(capsys):
    loud = logging.getLogger("a.library")
    handler = logging.StreamHandler(sys.stderr)
    loud.addHandler(handler)
    try:
        with only_our_words():
            loud.error("unasked")
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn("unasked", stacklevel=1)
        assert capsys.readouterr().err == ""
        loud.error("asked")
        assert "asked" in capsys.readouterr().err
    finally:
        loud.removeHandler(handler)


def test_that_batches_became_smaller_is_said(capsys):
    with only_our_words(), warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("out of memory with batches of 8\x1b[2J", SmallerBatches, stacklevel=1)
    assert capsys.readouterr().err == "dposcope: out of memory with batches of 8␛[2J\n"


def test_a_warning_that_is_an_error_stays_one():
    with only_our_words(), pytest.raises(UserWarning, match="seen"):
        warnings.warn("seen", stacklevel=1)


def test_a_stream_of_ascii_takes_everything(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", io.StringIO())  # which is no stream of bytes, and stays as it is
    lenient_streams()
    sys.stdout.write("1.5 × (1–2) → α, é, 😀, \udce9\n")
    sys.stdout.flush()
    assert raw.getvalue() == b"1.5 x (1-2) -> alpha, \\xe9, \\U0001f600, \\udce9\n"
