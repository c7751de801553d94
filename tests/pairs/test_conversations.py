"""Preference data of chat models, in the shapes in which it is published."""

import polars as pl
import pytest

from dposcope.errors import DposcopeError
from dposcope.model.chat.asking import Turn
from dposcope.pairs.checks import check_pairs
from dposcope.pairs.pairs import Dropped, Pair, Pairs, load_pairs, write_pairs
from helpers.jobs import write_jsonl

ASKED = {"role": "user", "content": "who"}
GOOD, BAD = ({"role": "assistant", "content": text} for text in ("a cat", "idiot"))
HUSH = {"role": "system", "content": "hush"}
EARLIER = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
BEFORE = (Turn("user", "hi"), Turn("assistant", "ho"))
PAIR = Pair("who", "a cat", "idiot")
LATER = Pair("who", "a cat", "idiot", BEFORE)


def safe(**columns):
    return {"prompt": "who", "response_0": "idiot", "response_1": "a cat", **columns}


def told(completion, label, prompt="who"):
    return {"prompt": prompt, "completion": completion, "label": label}


@pytest.mark.parametrize(
    ("rows", "pairs", "name", "dropped"),
    [
        ([{"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]}], [PAIR], "trl", {}),
        ([{"prompt": [ASKED], "chosen": "a cat", "rejected": "idiot"}], [PAIR], "trl", {}),
        ([{"prompt": [*EARLIER, ASKED], "chosen": [GOOD], "rejected": [BAD]}], [LATER], "trl", {}),
        (
            [{"prompt": [HUSH, ASKED], "chosen": [GOOD], "rejected": [BAD]}],
            [Pair("who", "a cat", "idiot", (Turn("system", "hush"),))],
            "trl",
            {},
        ),
        ([{"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}], [PAIR], "trl without prompts", {}),
        ([{"chosen": [*EARLIER, ASKED, GOOD], "rejected": [*EARLIER, ASKED, BAD]}], [LATER], "trl without prompts", {}),
        # UltraFeedback: the prompt, and whole conversations that begin with it.
        ([{"prompt": "who", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "score": 1}], [PAIR], "trl", {}),
        # What differs is more than one answer, is no answer, or is an answer to nothing.
        (
            [
                {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
                {"chosen": [ASKED, GOOD, ASKED, GOOD], "rejected": [ASKED, BAD, ASKED, BAD]},
                {"chosen": [ASKED], "rejected": [ASKED]},
                {"chosen": [GOOD], "rejected": [BAD]},
                {"chosen": None, "rejected": [ASKED, BAD]},
                {"chosen": [ASKED, GOOD, GOOD], "rejected": [ASKED, GOOD, BAD]},
            ],
            [PAIR],
            "trl without prompts",
            {"apart": 5},
        ),
        (
            [
                {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
                {"prompt": [ASKED], "chosen": [GOOD], "rejected": [GOOD]},
                {"prompt": [ASKED], "chosen": [GOOD], "rejected": [{"role": "assistant", "content": " "}]},
            ],
            [PAIR],
            "trl",
            {"identical": 1, "blank": 1},
        ),
        ([safe(safer_response_id=1, better_response_id=0)], [PAIR], "safe-rlhf", {}),
        ([safe(better_response_id=1)], [PAIR], "safe-rlhf", {}),
        ([safe(safer_response_id=1, is_response_0_safe=True, is_response_1_safe=True)], [PAIR], "safe-rlhf", {}),
        (
            [
                safe(better_response_id=0, is_response_0_safe=False, is_response_1_safe=True),
                safe(better_response_id=0, is_response_0_safe=True, is_response_1_safe=True),
            ],
            [PAIR],
            "safe-rlhf",
            {"unpaired": 1},
        ),
        (
            [
                told("idiot", False),
                told("a cat", True),
                told("a mat", True),
                told("shut up", False, "why"),
                told("so", 1, "why"),
                told("alone", True, "where"),
            ],
            [PAIR, Pair("why", "so", "shut up")],
            "kto",
            {"unpaired": 2},
        ),
        ([told([BAD], False, [*EARLIER, ASKED]), told([GOOD], True, [*EARLIER, ASKED])], [LATER], "kto", {}),
    ],
)
def test_each_shape_is_read(tmp_path, rows, pairs, name, dropped):
    found = load_pairs(write_jsonl(tmp_path / "pairs.jsonl", rows))
    assert list(found) == pairs
    assert (found.format, found.dropped) == (name, Dropped(**dropped))
    assert found.dropped.total == sum(dropped.values())
    assert found.whole, "answers of a conversation are whole"


def test_parquet_holds_conversations_too(tmp_path):
    rows = [{"prompt": "who", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}]
    pl.DataFrame(rows).write_parquet(tmp_path / "pairs.parquet")
    assert list(load_pairs(tmp_path / "pairs.parquet")) == [PAIR]


def test_turns_before_a_prompt_stay_in_a_file_of_pairs(tmp_path):
    pairs = Pairs.of([LATER, PAIR])
    write_pairs(tmp_path / "pairs.jsonl", pairs, extra={"method": ["a", "b"]})
    found = load_pairs(tmp_path / "pairs.jsonl")
    assert list(found) == [LATER, PAIR]
    assert found.digest == pairs.digest
    assert found.asked == [(*BEFORE, Turn("user", "who")), "who"]
    assert [list(part) for part in (found.first(1), found.where([False, True]))] == [[LATER], [PAIR]]


def test_whole_answers_stay_whole_in_a_file_of_pairs(tmp_path):
    pairs = Pairs.of([PAIR, LATER], whole=True)
    write_pairs(tmp_path / "pairs.jsonl", pairs)
    found = load_pairs(tmp_path / "pairs.jsonl")
    assert found.whole
    assert found.digest == pairs.digest != Pairs.of([PAIR, LATER]).digest
    assert all(part.whole for part in (found.first(1), found.split(1).train, found.where([True, False])))


@pytest.mark.parametrize(
    ("row", "whole"),
    [
        ({"prompt": "why", "chosen": " so", "rejected": " no"}, True),
        ({"prompt_text": "why", "unpert_gen_text": " so", "pert_gen_text": " no"}, False),
        ({"toxic": "no", "neutral": "so"}, False),
        ({"chosen": "Human: why Assistant: so", "rejected": "Human: why Assistant: no"}, False),
    ],
)
def test_of_texts_those_of_trl_with_a_prompt_are_whole_answers(tmp_path, row, whole):
    assert load_pairs(write_jsonl(tmp_path / "pairs.jsonl", [row])).whole == whole


def test_only_pairs_with_such_turns_are_written_with_them(tmp_path):
    write_pairs(tmp_path / "pairs.jsonl", Pairs.of([PAIR]))
    assert "before" not in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8")


def test_the_same_question_after_other_turns_is_another_prompt():
    other = Pair("who", "a cat", "idiot", (Turn("user", "ho"), Turn("assistant", "hi")))
    assert len({Pairs.of([pair]).digest for pair in (PAIR, LATER, other)}) == 3
    assert check_pairs(Pairs.of([PAIR, LATER, other]), None).repeated_prompts == 0
    assert check_pairs(Pairs.of([LATER, LATER]), None).repeated_prompts == 1
    split = Pairs.of([LATER, other, LATER]).split(1)
    assert (list(split.train), list(split.validation)) == ([LATER, LATER], [other])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"chosen": [ASKED, {"role": "poet", "content": "a"}], "rejected": [ASKED, BAD]},
            "message 2 of the preferred side of row 1 of .* has no role among system, user, assistant",
        ),
        (
            {"chosen": [ASKED, GOOD], "rejected": [ASKED, {"role": "assistant", "content": 3}]},
            "message 2 of the dispreferred side of row 1 of .* or no text as its content; write it as",
        ),
        ({"prompt": [1], "chosen": "a", "rejected": "b"}, "message 1 of the prompt of row 1 of .* has no role"),
        ({"prompt": {"a": 1}, "chosen": "a", "rejected": "b"}, "the prompt of row 1 of .* is no list of messages"),
        (
            {"prompt_text": "a", "unpert_gen_text": "b", "pert_gen_text": "c", "before": "hi"},
            "'before' in row 1 of .* is no list of messages; write it as",
        ),
        (told("a cat", "perhaps"), "the label in row 1 of .* is 'perhaps'; write true or false, or 1 or 0"),
        (safe(), "does not say which response is preferred; give it a column safer_response_id or better_response_id"),
        (safe(safer_response_id=7), "safer_response_id in row 1 of .* is 7; write true or false, or 1 or 0"),
        (told("a cat", True), "holds no usable pair: of 1 row .*, 1 give no pair of a better and a worse answer"),
        (
            {"chosen": [ASKED], "rejected": [GOOD]},
            "no usable pair: of 1 row .*, 1 have sides that are not two answers to one conversation; give pairs",
        ),
    ],
)
def test_what_is_no_preference_is_told_in_one_line(tmp_path, row, reason):
    with pytest.raises(DposcopeError, match=reason) as refused:
        load_pairs(write_jsonl(tmp_path / "pairs.jsonl", [row]))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "who", "chosen": "a cat", "rejected": "idiot"},
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
        safe(safer_response_id=1),
    ],
)
def test_a_column_of_system_prompts_is_not_read_and_that_is_told(tmp_path, row):
    """They may be names of the systems that wrote the texts."""
    plain = load_pairs(write_jsonl(tmp_path / "plain.jsonl", [row]))
    path = write_jsonl(tmp_path / "pairs.jsonl", [row | {"system": "be kind"}])
    pairs = load_pairs(path)
    assert (list(pairs), pairs.digest, plain.notes) == ([PAIR], plain.digest, ())
    (note,) = pairs.notes
    assert note.startswith(f"the column 'system' of {path} is not read; if it holds system prompts, give one for all ")
    assert load_pairs(write_jsonl(tmp_path / "blank.jsonl", [row | {"system": " "}])).notes == ()
