"""How the program ends when it fails: one line, an exit code, and the traceback only for who asks."""

import errno

import pytest
import torch

from dposcope.cli.failure import DEBUG, INTERRUPTED, REFUSED, UNFORESEEN
from dposcope.errors import DposcopeError
from helpers.jobs import Told, command


class OutOfReach(BaseException):
    """As libraries written in Rust raise: no Exception."""


@pytest.fixture
def ends(monkeypatch, capsys, tmp_path):
    """What `dposcope edit` says where its job ends with an error."""

    def ended(error: BaseException, *flags: str) -> Told:
        def fail(*_arguments, **_options):
            raise error

        monkeypatch.setattr("dposcope.jobs.edit.job.run_edit", fail)
        return command(capsys, "edit", "model", "--out", tmp_path / "out", *flags)

    return ended


REPORT = "please report it, with what the same command prints with --debug"
MEMORY = (
    "close other programs, take a smaller model or fewer data, lower --batch-size where the command has it, or use a "
    "machine with more memory"
)
ALLOCATOR = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "1000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
ENDS = [
    (DposcopeError("what is wrong; how to mend it"), REFUSED, "what is wrong; how to mend it"),
    (DposcopeError("a \x1b[2J name\nof two lines"), REFUSED, "a ␛[2J name of two lines"),
    (
        OSError(errno.ENOSPC, "No space left on device", "/full/disk"),
        REFUSED,
        "No space left on device /full/disk; check the path and the free space",
    ),
    (
        PermissionError(errno.EACCES, "Permission denied"),
        REFUSED,
        "Permission denied; check the path and the free space",
    ),
    (OSError("two\nlines"), REFUSED, "two lines; check the path and the free space"),
    (MemoryError(), REFUSED, f"not enough memory (MemoryError); {MEMORY}"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), REFUSED, f"not enough memory (Cannot allocate memory); {MEMORY}"),
    (RuntimeError(ALLOCATOR), REFUSED, f"not enough memory ({ALLOCATOR}); {MEMORY}"),
    (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
        REFUSED,
        f"not enough memory (CUDA out of memory. Tried to allocate 2.00 GiB.); {MEMORY}",
    ),
    (KeyError("name"), UNFORESEEN, f"internal error: KeyError: 'name'; {REPORT}"),
    (RuntimeError("shapes\ndiffer"), UNFORESEEN, f"internal error: RuntimeError: shapes; {REPORT}"),
    (IndexError(), UNFORESEEN, f"internal error: IndexError: IndexError; {REPORT}"),
    (RecursionError("too deep"), UNFORESEEN, f"internal error: RecursionError: too deep; {REPORT}"),
    (OutOfReach("panic"), UNFORESEEN, f"internal error: OutOfReach: panic; {REPORT}"),
]


@pytest.mark.parametrize(("error", "code", "line"), ENDS, ids=lambda one: type(one).__name__)
def test_every_error_is_one_line_and_a_code(ends, error, code, line):
    assert ends(error) == Told(code, "", f"dposcope: {line}\n")


def test_values_that_belong_to_nothing_are_named_with_the_mend(capsys):
    told = command(capsys, "explain", "base", "tuned", "--out", "x", "--steer", "0.01", "0.03", "0.1")
    assert told.code == REFUSED
    assert told.err == (
        "dposcope: explain does not take: 0.03 0.1; name an option again for each further value, and quote a text that "
        "has spaces in it\n"
    )


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["edit", "m", "--out", "x", "--limits", "3"], "--limits; did you mean --limit? dposcope edit --help-all"),
        (
            ["edit", "m", "--out", "x", "--max_window=3"],
            "--max_window; did you mean --max-windows? dposcope edit --help-all",
        ),
        (["edit", "m", "--out", "x", "--foo"], "--foo; dposcope edit --help-all"),
        (["pairs", "m", "--out", "x.jsonl", "--limit", "3"], "--limit; dposcope pairs --help-all"),
        (["pairs", "check", "file", "--fast"], "--fast; dposcope pairs check --help-all"),
    ],
)
def test_an_unknown_option_is_named_with_the_page_that_lists_them(capsys, flags, told):
    assert command(capsys, *flags) == Told(REFUSED, "", f"dposcope: Unknown option: {told} lists all options\n")


def test_an_unknown_name_in_a_file_is_told_as_the_file_would_write_it(capsys, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("betta = 0.3\n")
    told = command(capsys, "dpo", "m", "--pairs", "p.jsonl", "--out", tmp_path / "out", "--config", file)
    assert told.err == (
        f"dposcope: Unknown option: betta from {file}; did you mean beta? dposcope dpo --help-all lists all options\n"
    )


def test_a_table_in_a_file_is_told_from_an_unknown_name(capsys, tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text("[dpo]\nbeta = 0.3\n")
    told = command(capsys, "dpo", "m", "--pairs", "p.jsonl", "--out", tmp_path / "out", "--config", file)
    assert told.err == (
        f'dposcope: Unknown option: "[dpo][beta]" from {file}; the file takes no tables: write one name = value per '
        "line\n"
    )


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["edit"], "edit requires an argument that is missing, MODEL; see dposcope edit --help"),
        (["edit", "m"], "edit requires an argument that is missing, --out; see dposcope edit --help"),
        (["edit", "m", "--out"], "--out requires an argument; see dposcope edit --help"),
        (
            ["fold", "m", "--edit", "e", "--outt", "x"],
            "fold requires an argument that is missing, --out; write --out instead of --outt, or see dposcope fold "
            "--help",
        ),
        (["pairs", "check"], "pairs check requires an argument that is missing, FILE; see dposcope pairs check --help"),
    ],
)
def test_what_is_missing_is_told_apart_from_an_option_without_a_value(capsys, flags, told):
    assert command(capsys, *flags) == Told(REFUSED, "", f"dposcope: {told}\n")


@pytest.mark.parametrize("error", [DposcopeError("what; how"), MemoryError(), KeyError("name"), OutOfReach("panic")])
def test_debug_shows_the_traceback_before_the_same_line(ends, error, monkeypatch):
    plain = ends(error)
    shown = ends(error, "--debug")
    assert (shown.code, shown.out) == (plain.code, plain.out)
    assert shown.err.endswith(plain.err)
    assert shown.err.startswith("Traceback (most recent call last):")
    assert "in fail" in shown.err
    monkeypatch.setenv(DEBUG, "1")
    assert "in fail" in ends(error).err
    monkeypatch.setenv(DEBUG, "0")
    assert ends(error) == plain


def test_ctrl_c_says_that_nothing_is_lost(ends):
    told = ends(KeyboardInterrupt())
    assert told == Told(INTERRUPTED, "", "\ndposcope: interrupted; run the same command again to continue\n")


def test_of_several_processes_the_first_speaks(ends, monkeypatch):
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    for error, code, _ in ENDS:
        # `edit` runs in one process, so it is refused before its job; the code is the point.
        assert ends(error).code in (code, REFUSED)
        assert ends(error).err == ""


def test_the_help_of_the_program_tells_codes_and_debug(capsys):
    page = " ".join(command(capsys, "--help").out.split())
    assert "--debug (or the environment variable DPOSCOPE_DEBUG=1) shows the traceback" in page
    assert (
        f"Exit codes: 0 done; {REFUSED} bad input, or a job that cannot be done; {UNFORESEEN} an error of the "
        f"program itself; {INTERRUPTED} interrupted." in page
    )


def test_one_of_several_values_is_named_by_its_option(capsys, tmp_path):
    told = command(capsys, "tune", "model", "--out", tmp_path / "out", "--kl-weights", "2", "--kl-weights", "-1")
    assert (told.code, told.err) == (2, "dposcope: --kl-weights: input should be greater than or equal to 0, not -1\n")


def test_the_help_of_pairs_says_what_a_pair_is_by_default(capsys):
    page = " ".join(command(capsys, "pairs", "--help").out.split())
    assert "a harmless completion is preferred to a toxic one" in page
    assert "least toxic" not in page
