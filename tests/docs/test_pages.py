"""The pages together: each has its place, a how-to is short, the first page of the repository is short."""

import json
import re
from pathlib import Path

import pytest
import yaml

from dposcope.data.masking import mask_offensive

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
HOW_TO = sorted((DOCS / "how-to").glob("*.md"))
MOST_LINES = 80
"""Of a how-to."""
MOST_FINDINGS, MOST_FRONT = 900, 450
"""Words of the page of results, and of the first two screens (eighty lines) of the README."""


def in_nav() -> list[str]:
    # The file also names classes of Python, which this reading leaves alone.
    text = (ROOT / "mkdocs.yml").read_text("utf-8")
    nav = yaml.safe_load(text[text.index("nav:") : text.index("extra_css:")])["nav"]

    def pages(part: object) -> list[str]:
        if isinstance(part, str):
            return [part]
        parts = part.values() if isinstance(part, dict) else part
        return [page for one in parts for page in pages(one)]

    return pages(nav)


def test_every_page_has_one_place_in_the_navigation():
    there = [path.relative_to(DOCS).with_suffix(".md").as_posix() for path in DOCS.rglob("*") if is_page(path)]
    assert sorted(in_nav()) == sorted(there)


def is_page(path: Path) -> bool:
    return path.suffix in (".md", ".ipynb")


@pytest.mark.parametrize("page", HOW_TO, ids=lambda page: page.stem)
def test_a_how_to_is_short_and_begins_with_its_name(page):
    lines = page.read_text("utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    assert lines[0].startswith("# ")


def words(text: str) -> int:
    """As a reader counts: no addresses of links, no markup of tables and pictures, no code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    text = re.sub(r"<[^>]+>|\]\([^)]*\)|!\[[^\]]*", " ", text)
    return len(re.findall(r"\w[\w.’'%-]*", text))


def test_the_findings_are_few():
    assert words((DOCS / "results" / "index.md").read_text("utf-8")) <= MOST_FINDINGS


def test_the_first_two_screens_of_the_readme_are_short():
    front = "\n".join((ROOT / "README.md").read_text("utf-8").splitlines()[:80])
    assert words(front) <= MOST_FRONT


def test_words_are_counted():
    assert words("# One\n\n[two three](four/five.md) `six` | 0.34 × |\n\n```sh\nseven\n```\n") == 5


NOTEBOOKS = sorted((DOCS / "start").glob("*.ipynb"))


@pytest.mark.parametrize("page", [*HOW_TO, *NOTEBOOKS, ROOT / "README.md"], ids=lambda page: page.stem)
def test_no_page_has_a_word_that_is_masked(page):
    text = page.read_text("utf-8")
    if page.suffix == ".ipynb":
        text = "\n".join(read_outputs(json.loads(text)))
    text = text.replace("\\*", "*")
    assert mask_offensive(text) == text


def read_outputs(notebook: dict) -> list[str]:
    """What a reader of a notebook sees beside pictures."""
    cells = [("".join(cell["source"]), cell.get("outputs", [])) for cell in notebook["cells"]]
    shown = [
        "".join(part)
        for _, outputs in cells
        for output in outputs
        for part in (output.get("text", []), output.get("data", {}).get("text/html", []))
    ]
    return [*(source for source, _ in cells), *shown]
