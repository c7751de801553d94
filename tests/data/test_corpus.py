import json

import pytest

from dposcope.data.corpus import load_neutral, load_passages, split_neutral
from dposcope.errors import DposcopeError


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("final", [True, False])
def test_the_lines_of_a_raw_split_are_joined_by_two_newlines(tmp_path, end, final):
    path = tmp_path / "raw.txt"
    path.write_bytes(
        end.join([" ", " = Title = ", " ", " A line . ", "", "x"]).encode() + (end.encode() if final else b"")
    )
    assert load_neutral(path) == " \n\n = Title = \n\n \n\n A line . \n\n\n\nx"


def test_the_last_blank_line_stays(tmp_path):
    path = tmp_path / "raw.txt"
    path.write_text(" x \n \n", "utf-8")
    assert load_neutral(path) == " x \n\n "


def test_the_rows_of_a_table_are_lines(tmp_path):
    path = tmp_path / "raw.jsonl"
    rows = [" = Title = \n", "", None, " A line . \n", "two\nlines\n\n"]
    path.write_text("\n".join(json.dumps({"text": row}) for row in rows), "utf-8")
    assert load_neutral(path) == " = Title = \n\n\n\n\n\n A line . \n\ntwo\nlines\n"


def test_the_column_of_a_table_can_be_chosen(tmp_path):
    path = tmp_path / "raw.csv"
    path.write_text("body,id\nfirst,1\nsecond,2\n", "utf-8")
    assert load_neutral(path, column="body") == "first\n\nsecond"
    with pytest.raises(DposcopeError, match="no column 'text', only 'body', 'id'; choose with --neutral-column"):
        load_neutral(path)


def test_a_text_without_words_is_refused(tmp_path):
    path = tmp_path / "raw.csv"
    path.write_text("text,id\n,1\n", "utf-8")
    with pytest.raises(DposcopeError, match="only blank rows in 'text'; choose another column with --neutral-column"):
        load_neutral(path)
    (tmp_path / "raw.txt").write_text(" \n", "utf-8")
    with pytest.raises(DposcopeError, match="is empty; give a file with some text"):
        load_neutral(tmp_path / "raw.txt")


def test_passages_keep_their_order(tmp_path):
    path = tmp_path / "passages.jsonl"
    rows = [{"prompt": " P1", "gold": "g1"}, {"prompt": "P2", "gold": ""}, {"prompt": "P3", "gold": "g3"}]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    passages = load_passages(path)
    assert passages.prompts == (" P1", "P3")
    assert passages.golds == ("g1", "g3")
    assert len(passages) == 2
    assert load_passages(path, limit=1).golds == ("g1",)


def test_the_columns_of_passages_can_be_chosen(tmp_path):
    path = tmp_path / "passages.csv"
    path.write_text("start,next\na,b\n", "utf-8")
    assert load_passages(path, prompt_column="start", gold_column="next").golds == ("b",)
    with pytest.raises(DposcopeError, match=r"no column 'gold'.*--passage-prompt-column and --passage-gold-column"):
        load_passages(path, prompt_column="start")


def test_a_limit_below_one_is_refused():
    with pytest.raises(DposcopeError, match="a limit of 0 leaves no passage; give 1 or more"):
        load_passages(None, limit=0)


def test_the_built_in_texts_are_enough():
    assert len(load_passages(None)) >= 30
    assert len(load_neutral(None).split()) > 1000


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8, 0.95])
def test_a_text_is_cut_between_two_lines_near_its_share(share):
    lines = [f"line {place} " + "word " * (place % 7) for place in range(200)]
    first, second = split_neutral("\n\n".join(lines), share)
    assert first.split("\n\n") + second.split("\n\n") == lines
    assert len(first) / (len(first) + len(second)) == pytest.approx(share, abs=0.02)


def test_both_parts_of_a_text_hold_something():
    assert split_neutral("one long line of words\n\n \n\n\n\nx", 0.01) == ("one long line of words", " \n\n\n\nx")
    assert split_neutral("x\n\n \n\nthe end is long", 0.99) == ("x\n\n ", "the end is long")


def test_one_paragraph_cannot_be_divided():
    with pytest.raises(DposcopeError, match="one paragraph"):
        split_neutral("all in one", 0.5)
    with pytest.raises(DposcopeError, match="one paragraph"):
        split_neutral("all in one\n\n ", 0.5)
