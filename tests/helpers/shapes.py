"""Files of another shape than a program expects: valid JSON of any other form, and what is no JSON at all."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dposcope.artefacts import file_digest, sealed
from helpers.jobs import Told

WHOLE = {
    "nothing": b"",
    "a list": b"[]",
    "an object": b"{}",
    "null": b"null",
    "a text": b'"x"',
    "a number": b"7",
    "deep": b"[" * 100_000,
    "deep object": b'{"a":' * 100_000,
    "many digits": b"9" * 5_000,
    "a cut": b'{"a": ',
    "twice": b'{"kind": 1, "kind": 2}',
    "NaN": b'{"a": NaN}',
    "Latin-1": b'{"a": "\xe9"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
}
"""In the place of a whole file."""


_DIGEST = "digest"
"""A file that carries a digest of itself gets that of what it holds after a change: a stranger can compute it."""


@dataclass(frozen=True)
class Mutant:
    """A file's content after one change."""

    name: str
    content: bytes


def mutants(content: bytes) -> Iterator[Mutant]:
    """All of `WHOLE`; and each top-level key removed, of another type, and null. A list is changed in its first
    element, an object of objects in its first two."""
    for name, other in WHOLE.items():
        if other != content.strip():
            yield Mutant(name, other)
    told = json.loads(content)
    signed = isinstance(told, dict) and told.pop(_DIGEST, None) is not None
    if signed:
        yield Mutant("without digest", json.dumps(told).encode())
    for name, value in _changed(told):
        yield Mutant(name, json.dumps(sealed(value) if signed else value).encode())


def _changed(value: Any, depth: int = 2) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for place, (key, held) in enumerate(value.items()):
            rest = {name: one for name, one in value.items() if name != key}
            yield f"without {key}", rest
            yield f"{key} of another type", value | {key: other(held)}
            if held is not None:
                yield f"{key} is null", value | {key: None}
            if depth > 1 and (place < 2 or isinstance(held, list)):
                for name, inner in _changed(held, depth - 1):
                    yield f"{key}: {name}", value | {key: inner}
    elif isinstance(value, list) and value:
        yield "the first is gone", value[1:]
        yield "the first is of another type", [other(value[0]), *value[1:]]
        if depth > 0:
            for name, inner in _changed(value[0], depth - 1):
                yield f"the first: {name}", [inner, *value[1:]]


def other(value: Any) -> Any:
    """A value of another JSON type."""
    match value:
        case bool() | int() | float():
            return "x"
        case str():
            return [7]
        case None:
            return {"x": "y"}
        case list():
            return {"x": 7}
        case _:
            return ["x"]


def forge(folder: Path, file: Path, content: bytes) -> None:
    """Put a content into a file of a run, and let every record and `run.json` vouch for it, as a stranger could."""
    file.write_bytes(content)
    name, marks = file.relative_to(folder).as_posix(), {"bytes": len(content), "sha256": file_digest(file)}
    for record in [*folder.glob("stages/*.json"), folder / "run.json"]:
        if record == file or not record.is_file():
            continue
        told = json.loads(record.read_bytes())
        if name in (files := (told.get("finished") or told).get("files", {})):
            files[name] |= marks
            record.write_text(json.dumps(sealed(told) if told.pop(_DIGEST, None) else told))


_REFUSAL = r"dposcope: (.*; .+|--[a-z-]+: .*|Invalid value .*)$"
"""What is wrong, and the mend; of an option the first says enough."""


def fault_of(told: Told) -> str | None:
    """What is wrong with how a command ended, beside having refused in one line or done its work; None: nothing."""
    if "Traceback" in told.err or told.code not in (0, 2):
        return f"exit code {told.code}: {told.err[-2_000:]}"
    if told.code == 2:
        line = told.err.removesuffix("\n")
        if not re.match(_REFUSAL, line) or not line.isprintable() or len(line) > 1_000:
            return f"not one line with a mend: {told.err[:2_000]!r}"
    return None


def refusal_of(read: Callable[[], object]) -> str | None:
    """The same of a reader in Python: None where it gave something or refused in a line."""
    from dposcope.errors import DposcopeError

    try:
        read()
    except DposcopeError as error:
        return None if str(error).isprintable() and len(str(error)) < 1_000 else f"not one line: {str(error)[:500]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
