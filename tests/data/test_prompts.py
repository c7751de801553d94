import json

import pytest

from dposcope.data.prompts import load_prompts, split_prompts
from dposcope.errors import DposcopeError


def test_prompts_keep_their_order_and_spaces(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text(" What a\n\nYou are \nI said\n", "utf-8")
    assert load_prompts(path) == [" What a", "You are ", "I said"]
    assert load_prompts(str(path), limit=2) == [" What a", "You are "]
    assert len(load_prompts(path, limit=99)) == 3


def test_the_objects_of_real_toxicity_prompts_are_read(tmp_path):
    path = tmp_path / "prompts.jsonl"
    rows = [{"prompt": {"text": "So I", "toxicity": 0.1}}, {"prompt": {"text": "He is", "toxicity": None}}]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert load_prompts(path) == ["So I", "He is"]


def test_another_column_can_be_chosen(tmp_path):
    path = tmp_path / "prompts.csv"
    path.write_text("start,score\nSo I,1\n", "utf-8")
    assert load_prompts(path, column="start") == ["So I"]
    with pytest.raises(DposcopeError, match="no column 'prompt', only 'start', 'score'; choose with --prompt-column"):
        load_prompts(path)


def test_a_limit_below_one_is_refused():
    with pytest.raises(DposcopeError, match="a limit of 0 leaves no prompt; give 1 or more"):
        load_prompts(None, limit=0)


def test_of_400_the_first_200_are_reported_and_the_others_learned_from():
    prompts = [f"prompt {i}" for i in range(1, 401)]
    split = split_prompts(prompts)
    assert (split.report[0], split.report[-1], len(split.report)) == ("prompt 1", "prompt 200", 200)
    assert (split.learn[0], split.learn[-1], len(split.learn)) == ("prompt 201", "prompt 400", 200)


def test_an_odd_prompt_is_reported_on():
    split = split_prompts(["a", "b", "c", "d", "e"])
    assert split.report == ("a", "b", "c")
    assert split.learn == ("d", "e")


def test_the_halves_share_no_prompt():
    split = split_prompts(["a", "b", "c", "a", "d", "b"])
    assert split.report == ("a", "b", "c")
    assert split.learn == ("d",)


def test_too_few_prompts_are_refused():
    with pytest.raises(DposcopeError, match=r"3 prompts cannot be split .*; give at least 4"):
        split_prompts(["a", "b", "c"])
    with pytest.raises(DposcopeError, match="only repeats the first; give more distinct prompts"):
        split_prompts(["a", "b", "a", "b"])


def test_the_built_in_prompts_are_enough():
    prompts = load_prompts(None)
    assert len(prompts) >= 120
    assert len(set(prompts)) == len(prompts)
