"""Which texts are WikiText-2's test part."""

import pytest

from dposcope.artefacts import file_digest
from dposcope.paper import wikitext
from dposcope.paper.wikitext import DIGEST, is_wikitext_2


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ("hub:Salesforce/wikitext/wikitext-2-raw-v1@test", True),
        ("hub:Salesforce/wikitext/wikitext-2-raw-v1@train", False),
        ("hub:Salesforce/wikitext/wikitext-2-raw-v1", False),
        ("hub:Salesforce/wikitext/wikitext-103-raw-v1@test", False),
        ("hub:somebody/wikitext/wikitext-2-raw-v1@test", False),
        ("builtin:neutral.txt", False),
    ],
)
def test_of_the_hub_only_the_papers_part_counts(source, known):
    assert is_wikitext_2(source) is known


def test_a_file_is_known_by_its_bytes_and_not_by_its_name(tmp_path, monkeypatch):
    file, other = tmp_path / "mine.txt", tmp_path / "wiki.test.raw"
    for path in (file, other):
        path.write_text(f" = A {path.stem} = \n", encoding="utf-8")
    assert not is_wikitext_2(str(file))
    # The real text is not in the repository, so another stands in for it.
    monkeypatch.setattr(wikitext, "DIGEST", file_digest(file))
    assert is_wikitext_2(str(file))
    assert not is_wikitext_2(str(other))
    file.unlink()
    assert not is_wikitext_2(str(file))
    assert not is_wikitext_2(str(tmp_path))
    assert not is_wikitext_2("x" * 5000), "a name that no file system has"


def test_the_digest_is_a_whole_one():
    assert len(bytes.fromhex(DIGEST)) == 32
