"""Commands that a launcher started: which run in several processes, and who says why one does not."""

import pytest

from helpers.jobs import command

MASTER = {"RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
LINE = (
    "dposcope: of all commands dpo, edit, evaluate, explain, pairs and tune run in several processes; start this one "
    "without torchrun or accelerate, or unset WORLD_SIZE\n"
)


@pytest.mark.parametrize(
    "arguments", [["reproduce", "m"], ["pairs", "check", "p.jsonl"], ["generate", "m", "text"], []]
)
def test_other_commands_run_alone(capsys, monkeypatch, arguments):
    for name, value in {"WORLD_SIZE": "2", **MASTER}.items():
        monkeypatch.setenv(name, value)
    told = command(capsys, *arguments)
    assert (told.code, told.out, told.err) == (2, "", LINE)
    monkeypatch.setenv("RANK", "1")
    assert command(capsys, *arguments) == type(told)(2, "", "")
    # A RANK that no launcher has set silences nobody.
    monkeypatch.delenv("MASTER_ADDR")
    assert command(capsys, *arguments) == told


def test_one_process_is_left_in_peace(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert "torchrun" not in command(capsys, "pairs", "check", tmp_path / "none.jsonl").err
