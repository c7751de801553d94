"""What an option is called in a command that does not have it by that name; and one meaning for every name."""

from collections import defaultdict

import pytest

from dposcope.cli.app import app
from dposcope.jobs.renamed import RENAMED, other_name
from helpers.jobs import command

MEANT: dict[str, str] = {
    "--preset": "a study, or the settings of a training",
    "--beta": "the paper's β: of an edit the share of a group, of DPO its strength",
    "--split": "tune has a third part of the prompts, to choose on",
    "--kl-on": "tune has harmless samples, dpo only where it is given some",
    "--teacher-strength": "tune finds it",
    "--samples": "tune halves it with --quick",
    "--direction": "explain begins with the paper's; an edit with the clearest on small models; lens takes a saved one",
    "--strength": "generate shows several side by side",
    "--new-tokens": "of pairs: as many as are measured; of a conversation: an answer",
    "--top-p": "of pairs: without the least probable tokens, which read as noise",
    "--batch-size": "of dpo: pairs, and the preset says how many",
}
"""Options whose default differs between commands, and why."""


def commands():
    def walk(of, before=""):
        for name in of:
            if not name.startswith("-"):
                if of[name].default_command is not None:
                    yield f"{before}{name}", of[name]
                yield from walk(of[name], f"{before}{name} ")

    return dict(walk(app))


def options(name: str) -> dict[str, object]:
    found = commands()[name].assemble_argument_collection(parse_docstring=False)
    return {one.names[0]: one.field_info.default for one in found if not one.children}


def test_an_option_has_one_default_in_every_command():
    """`reproduce` hands on what it is given: its own default is that of each command."""
    defaults: dict[str, set[str]] = defaultdict(set)
    for name in commands():
        if name != "reproduce":
            for option, default in options(name).items():
                if str(default) != "<class 'inspect._empty'>":
                    defaults[option].add(str(default))
    several = {option for option, told in defaults.items() if len(told) > 1}
    assert several <= MEANT.keys()


@pytest.mark.parametrize(("name", "old"), [(name, old) for name, olds in RENAMED.items() for old in olds])
def test_the_other_name_is_told_in_one_line(capsys, name, old):
    assert f"--{old}" not in options(name)
    new = RENAMED[name][old].partition(" ")[0]
    assert new in options(name)
    needed = ["--pairs", "p.jsonl"] if name == "dpo" else []
    told = command(capsys, name, "m", f"--{old}", "x", "--out", "runs/none", *needed)
    assert (told.code, told.out) == (2, "")
    assert told.err == f"dposcope: {name} has no option --{old}; give {RENAMED[name][old]}\n"


def test_a_settings_file_is_told_too(capsys, tmp_path):
    (tmp_path / "own.toml").write_text('max_logppl_increase = "x"\n')
    told = command(capsys, "edit", "m", "--out", tmp_path / "out", "--config", tmp_path / "own.toml")
    assert told.code == 2
    assert "edit has no option" in told.err
    assert told.err.endswith(f"(from {tmp_path / 'own.toml'}); give --logppl-budget\n")


def test_any_way_of_writing_is_known():
    assert other_name("report_neutral", ("tune",)) == other_name("--report-neutral=x", ("pairs", "tune"))
    assert other_name("report_neutral", ("dpo",)) is None


def test_what_is_measured_on_is_not_learned_from(capsys, tmp_path):
    """Of tune alone --neutral is an option that could be taken for the other."""
    told = command(capsys, "tune", "m", "--neutral", "wiki.txt", "--out", tmp_path / "out")
    assert told.code == 2
    assert "--neutral is text that the result is measured on; name the text to learn from with --learn-text" in told.err
