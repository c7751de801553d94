"""Widths of columns and lines, on texts whose places are counted by hand."""

from itertools import pairwise

import pytest

from dposcope.cli.shown.widths import column_widths, least_width, wrapped


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("0.219 (0.187–0.251)*‡", 15),
        ("−0.088 (−0.102 to −0.061)", 7),
        ("1,234,567,890,123 tokens", 17),
        ("3.7.120", 7),
        ("ranking=reference,alpha=0.01", 1),  # a name may be folded, and so may a long word
        ("log-PPL, paired rise", 8),
        ("", 1),
    ],
)
def test_a_column_is_as_wide_as_its_longest_number(text, least):
    assert least_width([text, "x"], len) == least


def test_room_goes_to_the_narrowest_column_that_has_a_use_for_it():
    columns = [["a", "some words here"], ["12345"], ["0.5 (0.1–0.9)"]]
    assert column_widths(columns, 17, len) is None  # 5 for "words", 5, and 9 for the interval
    assert column_widths(columns, 19, len) == [5, 5, 9]
    assert column_widths(columns, 22, len) == [8, 5, 9]
    assert column_widths(columns, 24, len) == [10, 5, 9]
    assert column_widths(columns, 99, len) == [15, 5, 13]  # no wider than its text


def test_of_a_text_of_lines_each_is_whole_where_there_is_room():
    assert column_widths([["0.5\n(0.1–0.9) x"]], 99, len) == [11]


@pytest.mark.parametrize("room", range(1, 30))
def test_lines_break_between_words_alone(room):
    text = "toxicity, share of the plain model's: 0.45 × (0.380–0.530)"
    lines = wrapped(text, room, len)
    assert " ".join(lines) == text
    assert all(len(line) <= room or " " not in line for line in lines)
    assert all(len(f"{line} {after.split()[0]}") > room for line, after in pairwise(lines))  # no line ends too early


def test_a_wide_sign_takes_two_places():
    assert wrapped("日本 語", 4, lambda text: 2 * len(text.replace(" ", "")) + text.count(" ")) == ["日本", "語"]
