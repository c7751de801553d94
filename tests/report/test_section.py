import pytest

from dposcope.errors import DposcopeError
from dposcope.evaluation.statistics import Difference, Estimate
from dposcope.report.section import SectionTable, ShownCell, shown_cell


def test_a_column_without_words_is_set_as_numbers():
    table = SectionTable("T", ["name", "n", "mean", "word"], [["a", 1, Estimate(0, 0, 0, 1), "x"], ["b", None, 2.5, 3]])
    assert table.numeric == [False, True, True, False]
    assert SectionTable("T", ["a", "b"], []).numeric == [False, False]


@pytest.mark.parametrize(
    ("cells", "numeric"),
    [
        (["0.219 (0.187–0.251)", "−0.088 (−0.102 to −0.061)", "–"], True),
        (["0.45 × (0.38–0.53)", "12 %", "1,234", "+1e-05", None], True),
        (["", "–", None], False),
        (["3 neurons"], False),
        (["1.5", "none"], False),
    ],
)
def test_numbers_in_words_are_set_as_numbers(cells, numeric):
    assert SectionTable("T", ["a"], [[cell] for cell in cells]).numeric == [numeric]


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (None, ShownCell("–")),
        ("a word", ShownCell("a word")),
        (12345, ShownCell("12,345")),
        (-0.123456, ShownCell("−0.1235")),
        (Estimate(0.3, 0.28, 0.33, 9), ShownCell("0.300", "0.280–0.330")),
        (Difference(-0.2, -0.3, 0.1, 9), ShownCell("−0.200", "−0.300 to +0.100")),
    ],
)
def test_cells_in_words(cell, shown):
    assert shown_cell(cell) == shown


def test_ragged_tables_are_refused():
    with pytest.raises(DposcopeError, match="row 2 of table 'T' has 1 cells for 2 columns; give one each, None where"):
        SectionTable("T", ["a", "b"], [[1, 2], [1]])
    with pytest.raises(DposcopeError, match="table 'T' has no column; name one"):
        SectionTable("T", [], [])
