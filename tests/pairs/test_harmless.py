"""The file of harmless texts."""

import json

import pytest

from dposcope.errors import DposcopeError
from dposcope.pairs.harmless import HarmlessTexts, load_harmless, write_harmless


def test_what_is_written_is_read(tmp_path):
    texts = HarmlessTexts(("A prompt", ""), (" goes on", "Без prompt\n"))
    write_harmless(tmp_path / "h.jsonl", texts, [0.1, 0.0])
    assert load_harmless(tmp_path / "h.jsonl") == texts
    rows = [json.loads(line) for line in (tmp_path / "h.jsonl").read_text("utf-8").splitlines()]
    assert [row["score"] for row in rows] == [0.1, 0.0]
    assert not list(tmp_path.glob("*.tmp*"))
    assert load_harmless(tmp_path / "h.jsonl").digest == texts.digest
    assert HarmlessTexts(texts.completions, texts.prompts).digest != texts.digest


def test_rows_without_text_are_left_out(tmp_path):
    path = tmp_path / "h.csv"
    path.write_text('prompt,text\na, b\nc," "\n', encoding="utf-8")
    assert load_harmless(path) == HarmlessTexts(("a",), (" b",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "a", "text": " "}\n', "holds no text; give --harmless a file that dposcope pairs wrote"),
        ('{"prompt": "a"}\n', "has no column 'text'"),
        ("", "is empty"),
    ],
)
def test_files_of_no_use_are_refused(tmp_path, content, words):
    path = tmp_path / "h.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DposcopeError, match=words):
        load_harmless(path)
