import json

import numpy as np
import pytest

from dposcope.data.comments import Comments, direction_and_judge, load_comments
from dposcope.errors import DposcopeError


def comments(pattern):
    """`comments("+--")`: three comments, the first toxic, each text its own number."""
    return Comments(tuple(map(str, range(len(pattern)))), np.array([sign == "+" for sign in pattern]))


def table(tmp_path, labels, *, column="toxic"):
    path = tmp_path / "comments.jsonl"
    rows = [{"comment_text": f"text {i}", column: label} for i, label in enumerate(labels)]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return path


@pytest.mark.parametrize(
    ("labels", "toxic"),
    [
        ([1, 0, 1], [True, False, True]),
        (["1", "0"], [True, False]),
        ([True, False], [True, False]),
        (["True", " FALSE "], [True, False]),
        (["toxic", "non-toxic", "Neutral"], [True, False, False]),
        (["not toxic", "offensive"], [False, True]),
        (["yes", "no"], [True, False]),
        ([0.49, 0.5, 0.51, 0.0, 1.0], [False, True, True, False, True]),
    ],
)
def test_labels_are_read_however_they_are_written(tmp_path, labels, toxic):
    read = load_comments(table(tmp_path, labels))
    assert read.labels.dtype == np.bool_
    assert read.labels.tolist() == toxic
    assert read.texts == tuple(f"text {i}" for i in range(len(labels)))


def test_a_concept_that_is_called_like_a_label_is_that_label(tmp_path):
    """`negative` means without the concept, but for the concept of negative sentiment."""
    words = ["Negative ", "positive", "neutral"]
    assert load_comments(table(tmp_path, words)).labels.tolist() == [False, True, False]
    assert load_comments(table(tmp_path, words), adjective="toxic").labels.tolist() == [False, True, False]
    assert load_comments(table(tmp_path, words), adjective="negative").labels.tolist() == [True, False, False]
    given = load_comments(table(tmp_path, words), adjective="negative", positive="neutral")
    assert given.labels.tolist() == [False, False, True]
    assert load_comments(table(tmp_path, [1, 0]), adjective="negative").labels.tolist() == [True, False]


@pytest.mark.parametrize("label", ["hate", 2, -1, float("nan")])
def test_an_unknown_label_names_the_option(tmp_path, label):
    with pytest.raises(DposcopeError, match=r"the label '.*' in column 'toxic' of .* name .* with --positive-label"):
        load_comments(table(tmp_path, [1, 0, label]))


def test_the_positive_label_may_be_a_number(tmp_path):
    assert load_comments(table(tmp_path, [2, 1, 0]), positive=2).labels.tolist() == [True, False, False]


def test_the_positive_label_can_be_named(tmp_path):
    path = table(tmp_path, ["hate", "other", "Hate", "odd"], column="kind")
    assert load_comments(path, label_column="kind", positive="hate").labels.tolist() == [True, False, True, False]


def test_rows_without_text_or_label_are_counted(tmp_path):
    path = tmp_path / "comments.csv"
    path.write_text("body,flag\nx,1\n,0\ny,\nz,0\n", "utf-8")
    read = load_comments(path, text_column="body", label_column="flag")
    assert read.texts == ("x", "z")
    assert read.dropped == 2


def test_paired_rows_give_two_comments_unless_identical(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("toxic\tneutral\nrude a\tkind a\nsame \tsame\nrude b\tkind b\nlone\t\n", "utf-8")
    read = load_comments(path)
    assert read.texts == ("rude a", "kind a", "rude b", "kind b")
    assert read.labels.tolist() == [True, False, True, False]
    assert read.dropped == 2


def test_a_column_called_neutral_does_not_make_pairs_of_labelled_rows(tmp_path):
    path = tmp_path / "comments.csv"
    path.write_text("comment_text,toxic,neutral\nx,1,0\ny,0,1\n", "utf-8")
    assert load_comments(path).texts == ("x", "y")


def test_a_single_class_names_the_counts(tmp_path):
    with pytest.raises(
        DposcopeError, match=r"must have both classes, but there are 0 toxic and 2 non-toxic; .*--positive-label"
    ):
        load_comments(table(tmp_path, [0, 0]))


def test_a_missing_column_names_the_options(tmp_path):
    with pytest.raises(DposcopeError, match=r"no column 'text', only .*; choose with --text-column and --label-column"):
        load_comments(table(tmp_path, [1, 0]), text_column="text")


def test_labels_must_fit_the_texts():
    with pytest.raises(DposcopeError, match=r"2 texts but labels of shape \[1\]; give one label per text"):
        Comments(("a", "b"), np.array([True]))
    with pytest.raises(DposcopeError, match="a label is 2, neither True nor False"):
        Comments(("a", "b"), np.array([1, 2]))
    assert Comments(("a", "b"), np.array([1, 0])).labels.tolist() == [True, False]


def test_parts_are_cut_in_order():
    five = comments("+-+-+")
    assert five.first(2).texts == ("0", "1")
    assert five.first(9).texts == five.texts
    assert five.half("first").texts == ("0", "1")
    assert five.half("second").texts == ("2", "3", "4")
    assert five.half("second").labels.tolist() == [True, False, True]
    assert (five.counts.toxic, five.counts.non_toxic, len(five)) == (3, 2, 5)


def test_balanced_takes_the_smaller_class_and_the_first_of_the_other():
    assert comments("---+-+-").balanced().texts == ("0", "1", "3", "5")
    assert comments("+++-+").balanced().texts == ("0", "3")


def test_balanced_with_a_seed_draws_the_larger_class():
    many = comments("+" * 5 + "-" * 500)
    drawn = many.balanced(seed=3)
    assert drawn.texts[:5] == ("0", "1", "2", "3", "4")
    assert drawn.counts.non_toxic == 5
    assert len(set(drawn.texts)) == 10
    assert list(map(int, drawn.texts)) == sorted(map(int, drawn.texts))
    assert drawn.texts == many.balanced(seed=3).texts
    assert drawn.texts != many.balanced(seed=4).texts
    assert drawn.texts != many.balanced().texts


def test_balanced_needs_both_classes():
    with pytest.raises(DposcopeError, match="there are 0 toxic and 2 non-toxic; give comments of both"):
        comments("--").balanced()


def test_direction_and_judge_are_rows_1_to_2000_and_5001_to_10000():
    parts = direction_and_judge(comments("+-" * 5000))
    assert (parts.direction.texts[0], parts.direction.texts[-1], len(parts.direction)) == ("0", "1999", 2000)
    assert (parts.judge.texts[0], parts.judge.texts[-1], len(parts.judge)) == ("5000", "9999", 5000)


@pytest.mark.parametrize("n", [4, 5, 10, 3999, 4001])
def test_direction_and_judge_share_no_row(n):
    parts = direction_and_judge(comments("+--+" * 1001).first(n))
    assert len(parts.direction) == min(2000, n // 2)
    assert not set(parts.direction.texts) & set(parts.judge.texts)


def test_sorted_files_are_refused_with_the_mend():
    with pytest.raises(
        DposcopeError, match=r"the 3 comments kept for the direction must .* 3 toxic and 0 .*; shuffle the rows"
    ):
        direction_and_judge(comments("+++---"))
    with pytest.raises(DposcopeError, match=r"the 3 comments kept for the judge must .*; shuffle the rows"):
        direction_and_judge(comments("+-+---"))


def test_the_built_in_comments_are_enough():
    read = load_comments(None)
    assert read.counts.toxic >= 200
    assert read.counts.non_toxic >= 200
    assert direction_and_judge(read).direction.counts.toxic >= 50


def test_positive_comments_are_never_taken_for_negative_ones(tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("comment_text,toxic\ngood,positive\nso so,neutral\n", encoding="utf-8")
    with pytest.raises(DposcopeError, match="there are 0 toxic and 2 non-toxic; give comments of both kinds"):
        load_comments(str(path), adjective="negative")
