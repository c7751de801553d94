"""`--dry-run` of every command: it checks, tells, and writes nothing."""

import json

import pytest

from helpers.every_command import ORDERS, Ground, make_ground
from helpers.jobs import command, contents

pytestmark = pytest.mark.usefixtures("light")


@pytest.fixture(scope="module")
def ground(tmp_path_factory) -> Ground:
    return make_ground(tmp_path_factory.mktemp("ground"))


@pytest.mark.parametrize("name", ORDERS)
def test_a_command_says_what_it_would_do_and_does_nothing(name, ground, capsys, monkeypatch, tmp_path):
    def loaded(*_: object, **__: object) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", loaded)
    before = contents(ground.job.model.parent)
    given = [part for part in ORDERS[name].given(ground, tmp_path / "new") if part != "--quiet"]
    told = command(capsys, *given, "--dry-run")
    assert (told.code, told.err) == (0, "")
    assert "In all about" in told.out
    assert "First limit:" in told.out
    told = command(capsys, *given, "--dry-run", "--json")
    found = json.loads(told.out)
    assert found["command"] == given[0]
    assert found["seconds"] > 0
    assert found["memory"]["total"] > 5e8
    assert found["machine"]["bandwidth"] > 0
    assert all(one["stage"] for one in found["stages"])
    assert not (tmp_path / "new").exists()
    assert contents(ground.job.model.parent) == before


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["evaluate", "{model}", "--condition", "scale:alpha=x"], "alpha needs a number"),
        (["evaluate", "{model}", "--prompts", "nothing.jsonl"], "there is no file nothing.jsonl"),
        (["edit", "no/where/model"], "is not a model"),
        (["edit", "{model}", "--device", "nowhere"], "is unknown; use auto"),
        (["pairs", "{model}", "--method", "pplm", "--learn-text", "nothing.txt"], "nothing.txt"),
        (["dpo", "{model}", "--pairs", "nothing.jsonl"], "nothing.jsonl"),
        (["explain", "{model}", "{model}", "--toxic-neurons", "0"], "toxic-neurons"),
        (["fold", "{model}", "--edit", "nothing"], "there is no edit"),
        (["probe", "{model}", "--comments", "nothing.csv"], "nothing.csv"),
    ],
)
def test_bad_input_is_one_line(given, said, ground, capsys, tmp_path):
    out = tmp_path / ("out.jsonl" if given[0] == "pairs" else "out")
    told = command(capsys, *(one.format(model=ground.job.model) for one in given), "--dry-run", "--out", out)
    assert (told.code, told.out) == (2, "")
    assert said in told.err
    assert told.err.count("\n") == 1
    assert not out.exists()
