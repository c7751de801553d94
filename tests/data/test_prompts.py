import json
import random

import pytest

from dposcope.data.prompts import PromptSplit, load_prompts, load_split, split_prompts
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


def test_a_single_file_is_split_three_ways():
    """The half to report on is that of halves, so a later command that splits in halves reports on no other prompts."""
    prompts = [f"prompt {i}" for i in range(1, 401)]
    split = split_prompts(prompts, "three-way")
    assert split.report == split_prompts(prompts).report
    assert split.choose == tuple(prompts[200:300])
    assert split.learn == tuple(prompts[300:])


def test_halves_choose_on_what_they_learn_from():
    split = split_prompts(["a", "b", "c", "d"])
    assert split == PromptSplit(("a", "b"), ("c", "d"), ("c", "d"))


def test_same_uses_all_prompts_for_everything():
    every = ("a", "b", "a")
    assert split_prompts(every, "same") == PromptSplit(every, every, every)


@pytest.mark.parametrize("how", ["halves", "three-way"])
def test_with_prompts_to_report_on_all_others_choose_and_learn(how):
    """Of the development prompts, rows 1-200 to choose on and rows 201-400 to learn from."""
    prompts = [f"prompt {i}" for i in range(1, 401)]
    split = split_prompts(prompts, how, report=["x", "y", "x"])
    assert split == PromptSplit(("x", "y", "x"), tuple(prompts[:200]), tuple(prompts[200:]))


def test_what_is_reported_on_is_never_learned_from_or_chosen_on():
    prompts = ["a", "b", "c", "d", "e", "c", "b", "x"]
    split = split_prompts(prompts, report=["b", "x", "d"])
    assert split == PromptSplit(("b", "x", "d"), ("a", "c"), ("e",), left_out=4)
    split = split_prompts(prompts, "same", report=["b", "x", "d"])
    assert split == PromptSplit(("b", "x", "d"), *(("a", "c", "e", "c"),) * 2, left_out=4)


@pytest.mark.parametrize("how", ["halves", "three-way", "same"])
@pytest.mark.parametrize("own", [True, False])
def test_parts_of_other_rows_share_no_text(how, own):
    """Random lists with many repetitions, as the texts of web pages have."""
    draw = random.Random(0)
    split = None
    for _ in range(200):
        prompts = draw.choices("abcdefghijklmnop", k=draw.randint(4, 14))
        report = draw.choices("abcdefghijklmnop", k=3) if own else None
        try:
            split = split_prompts(prompts, how, report=report)
        except DposcopeError:
            continue
        if how != "same" or own:
            assert not set(split.report) & {*split.choose, *split.learn}
        if how == "three-way" or (own and how == "halves"):
            assert not set(split.choose) & set(split.learn)
        assert {*split.report, *split.choose, *split.learn} == {*prompts, *(report or [])}
    assert split is not None


def test_parts_that_would_be_empty_are_refused():
    with pytest.raises(DposcopeError, match="1 prompt to report on is too few; give at least 2"):
        split_prompts(["a", "b", "c", "d"], report=["x"])
    assert split_prompts(["a", "b", "c", "d"], report=["x", "y"]).report == ("x", "y")
    with pytest.raises(DposcopeError, match="leave no others to choose on or to learn from; give more distinct"):
        split_prompts(["a", "b", "c", "d"], report=["a", "b", "x"])
    with pytest.raises(DposcopeError, match="too few other texts to choose on some and learn from the rest"):
        split_prompts(["a", "b", "c", "b"], "three-way")
    with pytest.raises(DposcopeError, match="how 'thirds' is unknown; choose from halves, three-way, same"):
        split_prompts(["a", "b", "c", "d"], "thirds")


def test_a_limit_is_of_the_first_source_alone(tmp_path):
    for name, texts in (("dev", "abcdefgh"), ("report", "stuvwxyz")):
        (tmp_path / f"{name}.csv").write_text("start\n" + "\n".join(texts) + "\n", "utf-8")
    split = load_split(tmp_path / "dev.csv", report=tmp_path / "report.csv", column="start", limit=4)
    assert split == PromptSplit(tuple("stuvwxyz"), ("a", "b"), ("c", "d"))
    assert load_split(tmp_path / "dev.csv", column="start", limit=4).report == ("a", "b")


def test_the_built_in_prompts_are_enough():
    prompts = load_prompts(None)
    assert len(prompts) >= 120
    assert len(set(prompts)) == len(prompts)
