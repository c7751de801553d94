"""What is told before a reproduction begins."""

import pytest

from dposcope.errors import DposcopeError
from dposcope.jobs.reproduce import checks as reproduce_checks
from dposcope.jobs.reproduce.checks import check_steps
from dposcope.jobs.reproduce.plan import plan
from dposcope.jobs.reproduce.preset import load_preset
from dposcope.jobs.reproduce.settings import ReproduceSettings


def steps(tmp_path, **given):
    return plan("m", tmp_path / "out", load_preset("smoke"), ReproduceSettings(**given))


def test_what_is_there_passes(tmp_path):
    check_steps(steps(tmp_path))


@pytest.mark.parametrize("option", ["prompts", "comments", "learn_text", "neutral", "passages"])
def test_every_file_is_looked_for(tmp_path, option):
    with pytest.raises(DposcopeError, match="there is no file"):
        check_steps(steps(tmp_path, **{option: str(tmp_path / "nothing.jsonl")}))


def test_further_files_scorers_and_judges_too(tmp_path):
    with pytest.raises(DposcopeError, match="there is no file"):
        check_steps(steps(tmp_path, judge_comments=[str(tmp_path / "nothing.csv")]))
    with pytest.raises(DposcopeError, match="cannot import nowhere_at_all"):
        check_steps(steps(tmp_path, scorer="nowhere_at_all:score"))
    with pytest.raises(DposcopeError):
        check_steps(steps(tmp_path, token_judge="neither"))


def test_a_text_of_too_few_prompts_is_told_before_anything_runs(tmp_path, llama):
    llama.save_pretrained(tmp_path / "m")
    text = tmp_path / "short.txt"
    text.write_text("A man walked by the river. It was long and quiet.\n" * 3)
    given = ReproduceSettings(learn_text=str(text))
    found = plan(str(tmp_path / "m"), tmp_path / "out", load_preset("smoke"), given)
    with pytest.raises(DposcopeError, match=r"the text gives .* prompts of 6 tokens but 12 are needed"):
        check_steps(found)


def test_low_rank_needs_its_package(tmp_path, monkeypatch):
    monkeypatch.setattr(reproduce_checks, "find_spec", lambda _name: None)
    path = tmp_path / "own.toml"
    path.write_text('title = "t"\nmodels = ["m"]\n[[study]]\nname = "a"\ndpo = { train = "lora" }\n')
    found = plan("m", tmp_path / "out", load_preset(str(path)), ReproduceSettings())
    with pytest.raises(DposcopeError, match=r"needs the package peft; run: pip install 'dposcope\[train\]'"):
        check_steps(found)
