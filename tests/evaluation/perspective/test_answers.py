"""The file of kept answers: nothing is lost, whatever is cut off, copied, joined or written at once."""

import json
import os
import subprocess
import sys
from hashlib import sha256

import pytest

from dposcope.errors import DposcopeError
from dposcope.evaluation.perspective.answers import KeptAnswers, Question


def about(text, attribute="TOXICITY", languages=("en",)):
    return Question.about(text, attribute, languages)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scorers" / "answers.jsonl"


def test_what_is_kept_is_read_again(path):
    kept = KeptAnswers(path)
    assert len(kept) == 0
    assert not path.parent.exists(), "reading leaves nothing behind"
    assert kept.keep(about("a ☃"), 0.123456789012345) == 0.123456789012345
    assert kept.keep(about("b"), 1) == 1.0
    again = KeptAnswers(path)
    assert [again.get(about(text)) for text in ("a ☃", "b", "c")] == [0.123456789012345, 1.0, None]


def test_a_line_holds_the_digest_of_the_text_and_not_the_text(path):
    KeptAnswers(path).keep(about("secret ☃"), 0.25)
    (line,) = path.read_text().splitlines()
    facts = json.loads(line)
    assert len(facts.pop("day")) == len("2026-01-31")
    digest = sha256("secret ☃".encode()).hexdigest()
    assert facts == {"sha256": digest, "attribute": "TOXICITY", "languages": ["en"], "score": 0.25}
    assert "secret" not in line


def test_another_attribute_or_language_is_another_question(path):
    kept = KeptAnswers(path)
    kept.keep(about("a"), 0.25)
    kept.keep(about("a", "INSULT"), 0.5)
    kept.keep(about("a", languages=("en", "de")), 0.75)
    again = KeptAnswers(path)
    assert again.get(about("a")) == 0.25
    assert again.get(about("a", "INSULT")) == 0.5
    assert again.get(about("a", languages=("en", "de"))) == 0.75
    assert again.get(about("a", languages=("de",))) is None


def test_an_answer_is_on_the_disk_before_the_next_one(path, monkeypatch):
    sizes = []
    monkeypatch.setattr(os, "fsync", lambda handle: sizes.append(os.fstat(handle).st_size))
    kept = KeptAnswers(path)
    for number in range(3):
        kept.keep(about(str(number)), 0.5)
        assert len(sizes) == number + 1
        assert sizes[-1] == path.stat().st_size, "synced before all was written"


def test_a_file_cut_off_anywhere_keeps_all_whole_lines_and_can_be_added_to(path):
    kept = KeptAnswers(path)
    kept.keep(about("first"), 0.25)
    start = path.stat().st_size
    kept.keep(about("second"), 0.5)
    whole = path.read_bytes()
    for end in range(start, len(whole) + 1):
        path.write_bytes(whole[:end])
        cut = KeptAnswers(path)
        assert cut.get(about("first")) == 0.25
        assert cut.get(about("second")) == (0.5 if end >= len(whole) - 1 else None)
        cut.keep(about("second"), 0.5)
        cut.keep(about("third"), 0.75)
        again = KeptAnswers(path)
        assert [again.get(about(text)) for text in ("first", "second", "third")] == [0.25, 0.5, 0.75]
        assert again.unreadable == (0 if end in (start, len(whole) - 1, len(whole)) else 1)


@pytest.mark.parametrize(
    "line",
    [
        b"\0\0\0\0",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"sha256": "0", "attribute": "TOXICITY", "languages": ["en"], "score": NaN}',
        b'{"sha256": "0", "attribute": "TOXICITY", "languages": ["en"], "score": 1.01}',
        b'{"sha256": "0", "attribute": "TOXICITY", "languages": ["en"], "score": true}',
        b'{"sha256": "0", "attribute": "TOXICITY", "languages": [1], "score": 0.5}',
        b'{"sha256": "0", "attribute": "TOXICITY", "languages": "en", "score": 0.5}',
    ],
)
def test_a_line_that_holds_no_answer_is_counted_and_hides_no_other(path, line):
    KeptAnswers(path).keep(about("before"), 0.25)
    path.write_bytes(path.read_bytes() + line + b"\n\n")
    KeptAnswers(path).keep(about("after"), 0.5)
    kept = KeptAnswers(path)
    assert (len(kept), kept.unreadable) == (2, 1)
    assert kept.get(about("after")) == 0.5


def test_the_first_answer_counts(path):
    early, late = KeptAnswers(path), KeptAnswers(path)
    early.keep(about("a"), 0.25)
    assert late.keep(about("a"), 0.75) == 0.25
    assert len(path.read_text().splitlines()) == 1
    line = json.loads(path.read_text())
    with path.open("a") as file:
        file.write(json.dumps(line | {"score": 0.75}) + "\n")
    assert KeptAnswers(path).get(about("a")) == 0.25


def test_files_are_joined_by_appending_one_to_the_other(path, tmp_path):
    other = tmp_path / "other.jsonl"
    KeptAnswers(path).keep(about("a"), 0.25)
    KeptAnswers(other).keep(about("b"), 0.5)
    path.write_bytes(path.read_bytes() + other.read_bytes())
    assert [KeptAnswers(path).get(about(text)) for text in "ab"] == [0.25, 0.5]


def test_what_another_process_adds_is_seen(path):
    here, there = KeptAnswers(path), KeptAnswers(path)
    there.keep(about("a"), 0.25)
    assert here.get(about("a")) is None
    here.refresh()
    assert here.get(about("a")) == 0.25


def test_a_shorter_file_in_its_place_is_read_from_its_start(path):
    kept = KeptAnswers(path)
    for text in "abc":
        kept.keep(about(text), 0.25)
    path.unlink()
    KeptAnswers(path).keep(about("d"), 0.5)
    kept.refresh()
    assert kept.get(about("d")) == 0.5


WRITER = """
import sys
from dposcope.evaluation.perspective.answers import KeptAnswers, Question
kept = KeptAnswers(sys.argv[1])
for number in range(120):
    own = number % 2
    name = f"{sys.argv[2] if own else 'shared'} {number}"
    kept.keep(Question.about(name, "TOXICITY", ("en",)), number / 1000)
"""


def test_two_processes_write_at_once(path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), name]) for name in ("one", "two")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    kept = KeptAnswers(path)
    assert (len(kept), kept.unreadable) == (180, 0)
    assert len(path.read_text().splitlines()) == 180, "a shared question was answered twice"
    for number in range(120):
        for name in ("one", "two") if number % 2 else ("shared",):
            assert kept.get(about(f"{name} {number}")) == number / 1000


def test_a_file_that_cannot_be_written_or_read_is_told(tmp_path):
    (tmp_path / "file").touch()
    kept = KeptAnswers(tmp_path / "folder" / "answers.jsonl")
    (tmp_path / "folder").touch()
    with pytest.raises(DposcopeError, match=r"cannot write .*; free some space, or choose another cache folder"):
        kept.keep(about("a"), 0.5)
    with pytest.raises(DposcopeError, match=r"cannot read .*; free the path"):
        KeptAnswers(tmp_path)
