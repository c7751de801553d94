"""`dposcope chat`: lines of a pipe, and Ctrl-C."""

import io
import os
import pty
import select
import subprocess
import sys
import time

import pytest

from dposcope.interventions.edit import Edit
from dposcope.model.generate import generate
from dposcope.model.load import load
from dposcope.talk.session import Answer, Session
from helpers.edits import gains_of
from helpers.forked import Forked
from helpers.jobs import Job, command, make_job, process
from helpers.pages import STARRED, STRONG


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def lm(job):
    return load(str(job.model), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def edit(lm, tmp_path_factory):
    stem = tmp_path_factory.mktemp("edit") / "edit"
    Edit.of(gains_of(lm)).save(stem)
    return stem


@pytest.fixture
def said(capsys, job, edit, monkeypatch):
    """What the command answers to lines."""

    def say(*lines: str, options=()):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        plain = ("--dtype", "float32", "--device", "cpu", "--new-tokens", "6", "--quiet")
        return command(capsys, "chat", job.model, "--edit", edit, *plain, *options)

    return say


def test_both_models_answer_and_the_end_of_the_input_leaves(said, lm, edit):
    told = said("the cat", "", "who")
    lines = told.out.splitlines()
    assert told.code == 0
    assert told.err == ""
    assert lines[0].startswith(f"{lm.name} continues the text; edit: gains on ")
    wanted = []
    for line in ("the cat", "who"):
        plain = generate(lm, [line], new_tokens=6)[0].text
        with Edit.load(edit).on(lm):
            edited = generate(lm, [line], new_tokens=6)[0].text
        wanted += [f"> {line}", f"plain: {plain.strip()}", f"strength 1: {edited.strip()}"]
    assert [line for line in lines[1:] if line != "> "] == wanted


def test_an_answer_without_a_word_is_told(said, monkeypatch):
    def blank(_: Session, __: object, strength: float, **___: object) -> Answer:
        return Answer(strength, " \n", [1], [2])

    monkeypatch.setattr(Session, "answer", blank)
    assert said("the cat").out.splitlines()[2:4] == ["plain: (nothing)", "strength 1: (nothing)"]


def test_commands(said):
    told = said("/help", "/strength 0.5", "/strength", "/strength lots", "/strength 5000", "/dance", "/reset", "hi")
    lines = [line for line in told.out.splitlines()[1:] if not line.startswith(">")]
    assert lines[0].startswith("/strength 0.5 ")
    assert lines[4:10] == [
        "The strength is 0.5.",
        "The strength is 0.5.",
        "lots is no strength; give a number such as 0.5",
        "5000 is no strength; give a number such as 0.5",
        "There is no /dance; /help lists what there is.",
        "What was said is forgotten.",
    ]
    assert lines[-1].startswith("strength 0.5: ")


def test_quit_leaves_what_follows_unread(said):
    told = said("/quit", "the cat")
    assert told.code == 0
    assert "plain" not in told.out


def test_ctrl_c_leaves_quietly(said, monkeypatch):
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Session, "answer", pressed)
    told = said("the cat", "who")
    assert told.code == 0
    assert told.err == ""
    assert told.out.endswith("plain: \n")


def test_a_line_too_long_is_told_and_the_talk_goes_on(said):
    told = said("a " * 200, "the cat")
    assert told.code == 0
    assert "plain: no answer: a prompt of" in told.out
    assert "strength 1: " in told.out


def test_words_are_starred(said):
    assert f"> {STRONG}" in said(STRONG).out  # a person's own line
    assert STARRED not in said("the cat").out


def test_bytes_that_are_no_text_are_no_fault(capsys, job, edit, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8"))
    told = command(capsys, "chat", job.model, "--edit", edit, "--dtype", "float32", "--new-tokens", "2", "--quiet")
    assert told.code == 0, told.err


def test_an_edit_is_needed(capsys, job):
    told = command(capsys, "chat", job.model, "--quiet")
    assert told.code == 2
    assert "give one with --edit, or make one with: dposcope edit" in told.err


_OWN_TERMINAL = (
    "import fcntl, os, signal, sys, termios; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Takes the terminal, so that its Ctrl-C arrives, which what runs the tests may have had ignored, and becomes the
program."""
_MOMENT = 0.1
"""Seconds from words to keys."""


def in_an_interpreter(terminal: int, arguments: list[str]) -> subprocess.Popen:
    """A program in an interpreter of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", _OWN_TERMINAL, sys.executable, "-m", "dposcope", *arguments],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
    )


def in_a_fork(terminal: int, arguments: list[str]) -> Forked:
    """The same without the seconds that its imports take."""
    return process(*arguments, terminal=terminal, person=True)


def on_a_terminal(start, job, edit, *keys: tuple[bytes, bytes]) -> tuple[int, bytes]:
    """Exit code and screen of a person at a terminal, who presses keys a moment after some words have come.

    The last keys are pressed again after each ten seconds in which the program has not ended. A Ctrl-C between Python's
    writing of the prompt and its waiting for a line is kept until the next key: no person is so quick, a test without
    the moment is.
    """
    plain = ("--edit", str(edit), "--dtype", "float32", "--device", "cpu", "--new-tokens", "4", "--quiet")
    screen, its_side = pty.openpty()
    with start(its_side, ["chat", str(job.model), *plain]) as child:
        os.close(its_side)
        seen, looked, left, pressed, deadline = b"", 0, list(keys), 0.0, time.monotonic() + 120
        while time.monotonic() < deadline:
            if select.select([screen], [], [], 0.1)[0]:
                try:
                    seen += os.read(screen, 4096)
                except OSError:  # the program has ended
                    break
            if left and left[0][0] in seen[looked:]:
                time.sleep(_MOMENT)
                looked, pressed = len(seen), time.monotonic()
                os.write(screen, left.pop(0)[1])
            elif not left and time.monotonic() > pressed + 10:
                pressed = time.monotonic()
                os.write(screen, keys[-1][1])
        ended = time.monotonic() + 20
        while child.poll() is None and time.monotonic() < ended:
            time.sleep(0.01)
        code = child.poll()
        child.kill()
    os.close(screen)
    assert code is not None, seen
    return code, seen


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "last"), [(in_an_interpreter, b"\x03"), (in_a_fork, b"\x04"), (in_a_fork, b"/quit\n")]
)
def test_a_person_at_a_terminal_leaves_quietly(job, edit, start, last):
    code, seen = on_a_terminal(start, job, edit, (b"> ", b"the cat\n"), (b"\r\n> ", last))
    assert code == 0
    assert b"plain: " in seen
    assert b"Traceback" not in seen
    assert b"dposcope: " not in seen
