"""One word for one thing: words that were given up for another do not come back where a user reads."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GIVEN_UP = {
    r"unedited|unchanged model": "the plain model",
    r"(×|share of) none\b": "share of the plain model's",
    r"embedded (model|scorer|gemma)": "bundled model, profanity",
    r"edit that ships|ships with dposcope": "the edit that comes with dposcope",
    r"distilled gains": "taught gains",
    r"counter of words": "a bag of words, profanity",
    r"(per|in each|of each) layer\b": "block",
}
"""Pattern → the word of docs/concepts.md to use instead."""
PUBLISHED = {"tables.md", "overview.md"}
"""Tables of finished runs, as the code of their time wrote them."""
KEPT = {"benchmarks/rivals/abliteration.py"}
"""A scope of heretic is called "per layer"."""


def pages() -> list[Path]:
    folders = [ROOT / "docs", ROOT / "src", ROOT / "benchmarks", ROOT / "tools"]
    found = [path for folder in folders for path in folder.rglob("*") if path.suffix in (".md", ".py", ".jinja", ".js")]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(path for path in found if path.name not in PUBLISHED)]


@pytest.mark.parametrize("pattern", GIVEN_UP)
def test_no_page_has_a_word_that_was_given_up(pattern):
    word = re.compile(pattern, re.IGNORECASE)
    found = [
        f"{place}: {match[0]}, say {GIVEN_UP[pattern]}"
        for path in pages()
        if (place := path.relative_to(ROOT).as_posix()) not in KEPT
        for match in word.finditer(" ".join(path.read_text("utf-8").split()))
    ]
    assert found == []


def test_there_are_pages():
    assert len(pages()) > 400
