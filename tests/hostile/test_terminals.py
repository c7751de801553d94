"""The program and what surrounds it: a terminal that has ASCII alone, Ctrl-C at its beginning, noise of libraries."""

import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from dposcope.cli import main
from dposcope.errors import INTERRUPTED, DposcopeError
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from helpers.families import random_gains, tiny
from helpers.forked import environment
from helpers.jobs import Job, command, make_job, write_jsonl

pytestmark = pytest.mark.usefixtures("light")

BEYOND = "é × – 日本 😀 \u202e \x1b[31m"


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    return make_job(tmp_path_factory.mktemp("job"))


def on_stream(encoding: str, arguments: list[object], monkeypatch) -> tuple[object, bytes, bytes]:
    """Exit code, and the bytes on both streams, of a command in this process."""
    raw = io.BytesIO(), io.BytesIO()
    for name, stream in zip(("stdout", "stderr"), raw, strict=True):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(stream, encoding=encoding, errors="strict", write_through=True))
    code: object = 0
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    return code, raw[0].getvalue(), raw[1].getvalue()


def arguments_of(job: Job, folder: Path) -> dict[str, list[object]]:
    """What is done → the command; every one has something to say that ASCII lacks."""
    pairs = write_jsonl(folder / "p.jsonl", [{"prompt": BEYOND, "chosen": "b", "rejected": "c"}])
    lm = tiny("llama")
    Edit.of(Gains(random_gains(lm)), about={"note": BEYOND}).save(folder / "edit")
    model = shutil.copytree(job.model, folder / "modèle")
    (model / f"{BEYOND[:4]}.dat").touch()
    return {
        "help": ["--help"],
        "help of a command": ["edit", "--help"],
        "models": ["models"],
        "tokens": ["lens", model, "--neuron", "0.1", "--tokens", "96"],
        "tokens as JSON": ["lens", model, "--neuron", "0.1", "--json"],
        "a table": ["pairs", "check", pairs],
        "a path": ["pairs", "import", pairs, "--out", folder / "été.jsonl"],
        "a path as JSON": ["pairs", "import", pairs, "--out", folder / "été2.jsonl", "--json"],
        "notes": ["fold", model, "--edit", folder / "edit", "--out", folder / "gefaltet ×"],
        "a plan": ["reproduce", "--preset", "smoke", "--out", folder / "plan", "--dry-run"],
        "an error": ["lens", folder / f"{BEYOND[:7]}fort", "--neuron", "0.1"],
        "an unknown command": [BEYOND],
    }


ERRORS = {"an error", "an unknown command"}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_no_encoding_of_a_terminal_stops_a_command(job, tmp_path, monkeypatch, encoding):
    for what, arguments in arguments_of(job, tmp_path).items():
        with monkeypatch.context() as patch:
            code, out, err = on_stream(encoding, arguments, patch)
        assert code == (2 if what in ERRORS else 0), (what, err)
        assert (err if what in ERRORS else out).strip(), what
        for told in (out.decode(encoding), err.decode(encoding)):
            assert "Traceback" not in told
            assert "\x1b" not in told
        assert err.count(b"\n") == (1 if what in ERRORS else 0), (what, err)
        if "JSON" in what:
            json.loads(out.decode(encoding))


def test_a_terminal_of_ascii_has_our_own_signs_in_other_words(monkeypatch):
    _, out, _ = on_stream("ascii", ["edit", "--help"], monkeypatch)
    assert b"gain of 1-alpha or 1+alpha" in b" ".join(out.replace(b"|", b" ").split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_a_process_of_its_own_in_ascii(job, tmp_path, variables):
    made = arguments_of(job, tmp_path)
    for what in ("help", "a path", "an unknown command"):
        run = subprocess.run(
            [sys.executable, "-m", "dposcope", *map(str, made[what])],
            env=environment(**variables),
            capture_output=True,
            check=False,
        )
        assert run.returncode == (2 if what in ERRORS else 0), run.stderr
        assert (run.stdout + run.stderr).isascii()
        assert b"Traceback" not in run.stderr


# Ctrl-C

ANSWERED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
"""What runs the tests may have had it ignored."""
AS_A_PROGRAM = "import runpy; runpy.run_module('dposcope', run_name='__main__')\n"


@pytest.mark.slow
def test_ctrl_c_while_the_program_is_still_being_read(tmp_path):
    """From the moment that its own first line runs, wherever it then is."""
    slow = tmp_path / "cyclopts.py"
    slow.write_text("import pathlib, time\npathlib.Path(__file__).with_name('here').touch()\ntime.sleep(60)\n")
    with subprocess.Popen(
        [sys.executable, "-c", f"{ANSWERED}{AS_A_PROGRAM}", "models"],
        env=environment(PYTHONPATH=f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        began = time.monotonic()
        while not (tmp_path / "here").exists() and time.monotonic() < began + 60:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate()
    assert (running.returncode, out, err) == (130, "", f"\ndposcope: {INTERRUPTED}\n")


@pytest.mark.parametrize("becomes", [ImportError, RuntimeError, DposcopeError, OSError])
def test_ctrl_c_is_ctrl_c_whatever_a_library_makes_of_it(job, tmp_path, monkeypatch, capsys, becomes):
    """An import that is interrupted may fail as one that is not possible."""

    def swallow(*_: object, **__: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise becomes("cannot import it") from error

    monkeypatch.setattr("dposcope.jobs.edit.job.run_edit", swallow)
    usual = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        told = command(capsys, "edit", job.model, "--out", tmp_path / "out")
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, usual)
    assert (told.code, told.out, told.err) == (130, "", f"\ndposcope: {INTERRUPTED}\n")


@pytest.mark.slow
def test_the_exit_code_of_ctrl_c_is_a_code(tmp_path):
    """An exception that passes through `exec` leaves Python believing that it must die of the signal."""
    program = (
        f"{ANSWERED}from dposcope.cli import app\n"
        "app._run = lambda tokens: exec('signal.raise_signal(signal.SIGINT)', {'signal': signal})\n"
        "from dposcope.__main__ import main; main()"
    )
    script = tmp_path / "program.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, "-m", "program"], env=environment(), cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, f"\ndposcope: {INTERRUPTED}\n")


# Noise


def loud(*_: object, **__: object) -> None:
    logging.getLogger("transformers").error("a library's own line")
    logging.getLogger("huggingface_hub").warning("another")
    logging.getLogger().critical("and another")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("a warning", stacklevel=1)
    raise DposcopeError("ours; and its mend")


def test_our_line_stands_alone(job, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("dposcope.jobs.edit.job.run_edit", loud)
    told = command(capsys, "edit", job.model, "--out", tmp_path / "out")
    assert (told.code, told.out, told.err) == (2, "", "dposcope: ours; and its mend\n")


NOISY = {
    "a config with unknown rope": {"rope_scaling": {"rope_type": "nonsense", "factor": "x"}},
    "a config of another version": {"transformers_version": "99.0", "torch_dtype": "float99"},
    "tokens beyond the vocabulary": {"eos_token_id": 10**6, "pad_token_id": -5},
    "an unknown attention": {"_attn_implementation": "nonsense", "attn_implementation": "nonsense"},
    "weights that do not fit": {"intermediate_size": 40},
    "more blocks than weights": {"num_hidden_layers": 9},
    "fewer blocks than weights": {"num_hidden_layers": 1},
    "tied weights": {"tie_word_embeddings": True},
    "an activation that is none": {"hidden_act": "nonsense"},
    "another architecture": {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
    "remote code": {"auto_map": {"AutoModelForCausalLM": "x.Y", "AutoConfig": "x.Z"}, "model_type": "unheard-of"},
}


@pytest.mark.parametrize("what", NOISY)
def test_models_that_libraries_complain_about(job, tmp_path, capfd, what):
    """Below Python, too, nothing stands on the error stream but our line."""
    found = shutil.copytree(job.model, tmp_path / "model")
    config = found / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **NOISY[what]}))
    capfd.readouterr()
    code: object = 0
    try:
        main(["lens", str(found), "--neuron", "0.1"])
    except SystemExit as stop:
        code = stop.code
    told = capfd.readouterr()
    assert code in (0, None, 2)
    assert told.err.count("\n") == (1 if code == 2 else 0), told.err
    assert told.err == "" or told.err.startswith("dposcope: ")
