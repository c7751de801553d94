"""`dposcope serve`: its address, its port, and Ctrl-C."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from dposcope.interventions.edit import Edit
from dposcope.model.load import load
from dposcope.talk.web.server import TalkServer
from helpers.edits import gains_of
from helpers.jobs import Job, command, make_job


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


@pytest.fixture(scope="module")
def edit(job, tmp_path_factory):
    stem = tmp_path_factory.mktemp("edit") / "edit"
    Edit.of(gains_of(load(str(job.model), dtype="float32", device="cpu"))).save(stem)
    return stem


def options(edit) -> list:
    return ["--edit", edit, "--dtype", "float32", "--device", "cpu", "--quiet", "--port"]


def test_it_says_where_and_ends_quietly(capsys, job, edit, monkeypatch):
    seen = []

    def serve(self, *_: object, **__: object) -> None:
        assert self.files[""].body
        seen.append(self.address)
        raise KeyboardInterrupt

    monkeypatch.setattr(TalkServer, "serve_forever", serve)
    told = command(capsys, "serve", job.model, *options(edit), "0")
    assert (told.code, told.err) == (0, "")
    lines = told.out.splitlines()
    assert lines[1:] == [f"open {seen[0]}", "Only this machine can. Ctrl-C ends it.", ""]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{24}/", seen[0])


def test_a_taken_port_is_told_before_the_model_is_loaded(capsys, job):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = command(capsys, "serve", "no/model/at/all", "--port", port, "--quiet")
    assert told.code == 2
    assert told.err == f"dposcope: port {port} is taken; give another with --port, or --port 0 for any free one\n"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--port", "70000"], "--port"),
        (["--port", "-1"], "--port"),
        (["--port", "0"], "give one with --edit, or make one with: dposcope edit"),
        (["--port", "0", "--edit", "none"], "edit:none names no edit"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_the_port(capsys, job, given, line):
    told = command(capsys, "serve", job.model, *given, "--quiet")
    assert told.code == 2
    assert line in told.err
    assert told.err.count("\n") == 1


def test_a_second_ctrl_c_does_not_wait_for_an_answer(capsys, job, edit, monkeypatch):
    """The thread that writes it may not meet the end of the interpreter."""

    def interrupted(self: TalkServer) -> None:
        assert self.writing.acquire(blocking=False)
        raise KeyboardInterrupt

    def again(self: TalkServer) -> None:
        self.server_close()
        raise KeyboardInterrupt

    def left(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(TalkServer, "serve_forever", interrupted)
    monkeypatch.setattr(TalkServer, "end", again)
    monkeypatch.setattr(os, "_exit", left)
    told = command(capsys, "serve", job.model, *options(edit), "0")
    assert (told.code, told.err) == (130, "")
    assert told.out.splitlines()[-1] == "Waiting for the answer that is being written; Ctrl-C again ends at once."


@pytest.mark.slow
def test_ctrl_c_ends_the_program(job, edit):
    program = [sys.executable, "-m", "dposcope", "serve", str(job.model), *map(str, options(edit)), "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    # What runs the tests may have had the signal ignored, as a shell does in the background.
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(program, env=environment, **pipes, **heard) as run:
        try:
            assert run.stdout is not None
            run.stdout.readline()
            address = urlsplit(run.stdout.readline().split()[1])
            connection = http.client.HTTPConnection(address.netloc, timeout=60)
            connection.request("GET", address.path)
            assert connection.getresponse().status == 200
            connection.close()
            run.send_signal(signal.SIGINT)
            out, err = run.communicate(timeout=60)
        finally:
            run.kill()
    assert (run.returncode, err) == (0, "")
    assert out.splitlines()[-1] == ""
