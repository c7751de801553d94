"""No page prints a zero with a sign, which says nothing and looks like something."""

import re
from pathlib import Path

import pytest

from dposcope.evaluation.numbers import DIFFERENCE, MEAN

ROOT = Path(__file__).parents[2]
SIGNED_ZERO = re.compile(r"(?<![\w.])[+−-]0\.0+(?![0-9])")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_there_are_pages():
    assert len(PAGES) > 20


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_no_zero_has_a_sign(page):
    found = [match.group() for match in SIGNED_ZERO.finditer(page.read_text("utf-8"))]
    assert found == []


def test_the_search_finds_what_the_formatter_must_not_print():
    assert SIGNED_ZERO.search("a −0.000 (−0.002 to +0.002)")
    assert SIGNED_ZERO.search("+0.00 %")
    assert not SIGNED_ZERO.search("−0.001, 1-0.0, 0.000")
    for format in (MEAN, DIFFERENCE):
        assert not SIGNED_ZERO.search(format.with_interval(-0.0001, -0.0004, 0.0003))
