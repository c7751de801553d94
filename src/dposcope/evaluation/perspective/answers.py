"""Scores of a web service, kept for good in a file: a line of JSON an answer, written as soon as it is there.

A line holds the SHA-256 of a text, not the text, and no key. The file may be copied to another machine, and two of
them may be joined by appending one to the other.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from filelock import FileLock

from dposcope.errors import DposcopeError


@dataclass(frozen=True)
class Question:
    """What was asked about a text. Equal questions have one answer."""

    sha256: str
    """Of the text's UTF-8, in hexadecimal."""
    attribute: str
    languages: tuple[str, ...]

    @classmethod
    def about(cls, text: str, attribute: str, languages: tuple[str, ...]) -> "Question":
        """The question about a text, which must be encodable."""
        return cls(sha256(text.encode()).hexdigest(), attribute, languages)


class KeptAnswers:
    """The file. Only lines are added to it, one process at a time; a lock file beside it sees to that.

    A line that cannot be read, such as one that a power failure cut off, is no answer. Of two answers to one question
    the first counts, so that a score never changes.
    """

    def __init__(self, path: str | Path) -> None:
        """Read the file, if it exists.

        Args:
            path: the file; the first answer creates it and its folder.

        Raises:
            DposcopeError: it exists and cannot be read.
        """
        self.path = Path(path)
        """The file."""
        self.unreadable = 0
        """Lines that hold no answer."""
        self._known: dict[Question, float] = {}
        self._read = 0
        self.refresh()

    def __len__(self) -> int:
        """Answers that are known."""
        return len(self._known)

    def get(self, question: Question) -> float | None:
        """The answer, if it is known."""
        return self._known.get(question)

    def refresh(self) -> None:
        """Read what was added since, here or by another process.

        Raises:
            DposcopeError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                if file.seek(0, os.SEEK_END) < self._read:  # another file has taken its place
                    self._read = 0
                file.seek(self._read)
                added = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise DposcopeError(
                f"cannot read {self.path}: {error.strerror or error}; free the path, or move the file away"
            ) from error
        whole, newline, last = added.rpartition(b"\n")
        self._read += len(whole) + len(newline)
        self._take(whole.split(b"\n"))
        # A last line without an end is whole, being written, or cut off. It is read again when it has one.
        if _read_line(last) is not None:
            self._take([last])

    def keep(self, question: Question, score: float) -> float:
        """Write an answer, and return only when it is on the disk.

        Returns:
            The answer that counts: `score`, or one that another process kept in the meantime.

        Raises:
            DposcopeError: the file cannot be written.
        """
        facts = {
            "sha256": question.sha256,
            "attribute": question.attribute,
            "languages": list(question.languages),
            "score": score,
            "day": datetime.now(UTC).date().isoformat(),
        }
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path.with_name(self.path.name + ".lock")):
                self.refresh()
                if question not in self._known:
                    with self.path.open("a+b") as file:
                        # After a line that was cut off, a new one begins.
                        end = file.seek(0, os.SEEK_END)
                        file.seek(max(end - 1, 0))
                        start = b"" if file.read(1) in (b"", b"\n") else b"\n"
                        file.write(start + json.dumps(facts).encode() + b"\n")
                        file.flush()
                        os.fsync(file.fileno())
                    self.refresh()
        except OSError as error:
            raise DposcopeError(
                f"cannot write {self.path}: {error.strerror or error}; free some space, or choose another cache folder "
                "with the variable DPOSCOPE_CACHE"
            ) from error
        return self._known[question]

    def _take(self, lines: Iterable[bytes]) -> None:
        for line in lines:
            if line.strip():
                answer = _read_line(line)
                if answer is None:
                    self.unreadable += 1
                else:
                    self._known.setdefault(answer.question, answer.score)


@dataclass(frozen=True)
class _Answer:
    question: Question
    score: float


def _read_line(line: bytes) -> _Answer | None:
    try:
        match json.loads(line):
            case {
                "sha256": str(digest),
                "attribute": str(attribute),
                "languages": [*languages],
                "score": score,
            } if all(isinstance(language, str) for language in languages) and is_score(score):
                return _Answer(Question(digest, attribute, tuple(languages)), float(score))
            case _:
                return None
    except (ValueError, RecursionError):
        return None


def is_score(value: Any) -> bool:
    """Whether JSON holds a number in [0, 1] there; NaN, true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1
