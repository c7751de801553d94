"""The one door for what files say: JSON and TOML, parsed with care and checked against a schema.

A schema is a type: a dataclass, `dict[str, float]`, a Pydantic model. It stands beside the code that writes the file.
What a file holds beyond it is ignored. Whoever reads a file gets a value of that type, or one line that names the file,
the place in it and the mend.
"""

import json
import math
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any, Final, TypeVar, cast

from pydantic import AfterValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from dposcope.errors import DposcopeError
from dposcope.files import MOST_DATA, MOST_SETTINGS, read_regular
from dposcope.foreign_text import visible
from dposcope.options import GIVEN

T = TypeVar("T")

AGAIN: Final = "delete it and run again"
"""The mend of a file that a run makes again."""
_RECORDED: Final = {GIVEN: ()}
"""Of settings in a record: all options are there, and none was given."""
_LARGEST: Final = 2**63
"""Whole numbers from here on fit no column and no tensor."""
_HALVES: Final = re.compile(r"\\u[dD][89a-fA-F]")
"""Of characters beyond the first 65,536, as ASCII spells them, or alone."""
_LONGEST: Final = 120
"""Letters of a place within a file that a message shows."""


def read_json(path: str | Path, kind: type[T] | TypeAdapter[T], *, mend: str = AGAIN) -> T:
    """Read a JSON file that this program wrote.

    Args:
        path: of the file.
        kind: its schema. Numbers and texts are not converted into each other.
        mend: what to do about a file that does not fit, for the message.

    Raises:
        DposcopeError: it is missing, unreadable, not JSON, or does not fit the schema.
    """
    return parse_json(_text(Path(path), mend, most=MOST_DATA), kind, source=str(path), mend=mend)


def parse_json(text: str, kind: type[T] | TypeAdapter[T], *, source: str, mend: str = AGAIN) -> T:
    """JSON that this program wrote, as a value of a type; see `read_json`.

    Args:
        text: the JSON.
        kind: its schema.
        source: where it stands, for the message.
        mend: see `read_json`.

    Raises:
        DposcopeError: it is not JSON, or does not fit the schema.
    """
    found = _parsed(text, _OURS, source, mend)
    adapter = kind if isinstance(kind, TypeAdapter) else cast(TypeAdapter[T], _adapter(kind))
    try:
        # Strict on JSON: a list may become a tuple, and a text never a number. That parser knows no half characters.
        if _has_half(text, found):
            return adapter.validate_python(found, context=_RECORDED)
        return adapter.validate_json(text, strict=True, context=_RECORDED)
    except ValidationError as error:
        raise DposcopeError(f"{source} is damaged or of another version: {_fault(error)}; {mend}") from error
    except DposcopeError as error:  # a value that refuses what is in its fields
        raise DposcopeError(f"{source} is damaged or of another version: {error}") from error


def read_object(path: str | Path, *, mend: str = AGAIN, most: int = MOST_DATA) -> dict[str, Any]:
    """Read a JSON file that another program may have written and that holds one object, whatever is in it.

    Args:
        path: of the file.
        mend: see `read_json`.
        most: bytes that it may have.

    Raises:
        DposcopeError: it is missing, unreadable, too large, not JSON or no object.
    """
    return parse_object(_text(Path(path), mend, most=most), source=str(path), mend=mend)


def parse_object(text: str, *, source: str, mend: str = AGAIN) -> dict[str, Any]:
    """A JSON object; see `read_object`.

    Raises:
        DposcopeError: it is not JSON, or no object.
    """
    found = _parsed(text, _OTHERS, source, mend)
    if not isinstance(found, dict):
        raise DposcopeError(f"{source} holds {_NAMES[type(found)]} where an object belongs; {mend}")
    return cast(dict[str, Any], found)


def read_toml(path: str | Path, *, mend: str) -> dict[str, Any]:
    """Read settings in a TOML file.

    Raises:
        DposcopeError: it is missing, unreadable, too large or not TOML.
    """
    text = _text(Path(path), mend, most=MOST_SETTINGS, may_be_empty=True)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise DposcopeError(f"{path} is not TOML ({reason(error)}); {mend}") from error


def reason(error: ValueError | RecursionError) -> str:
    """Why a text is not JSON or TOML, in a few words."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, line {error.lineno:,}"
    return "a number has too many digits" if "int_max_str_digits" in str(error) else str(error)


def known(**kinds: Any) -> AfterValidator:
    """Of facts that may be any, those that are read, by name; for `Annotated[dict[str, Any], known(seed=int)]`."""

    def check(facts: dict[str, Any]) -> dict[str, Any]:
        for name, kind in kinds.items():
            if name in facts:
                try:
                    _adapter(kind).validate_json(json.dumps(facts[name]), strict=True)
                except ValidationError as error:
                    raise PydanticCustomError(_KNOWN, "{fault}", {"fault": _fault(error, name)}) from error
        return facts

    return AfterValidator(check)


def _text(path: Path, mend: str, *, most: int, may_be_empty: bool = False) -> str:
    """An ordinary file as UTF-8, without a byte-order mark."""
    try:
        text = read_regular(path, most=most).decode("utf-8-sig")
    except PermissionError as error:
        raise DposcopeError(f"cannot read {path}: {error.strerror}; allow it with: chmod u+r {path}") from error
    except OSError as error:
        raise DposcopeError(f"cannot read {path}: {error.strerror or error}; check the path") from error
    except UnicodeDecodeError as error:
        raise DposcopeError(f"{path} is not UTF-8 (byte {error.start:,}); {mend}") from error
    if not text.strip() and not may_be_empty:
        raise DposcopeError(f"{path} is empty; {mend}")
    return text


def _parsed(text: str, decoder: json.JSONDecoder, source: str, mend: str) -> Any:
    try:
        return decoder.decode(text)
    except (ValueError, RecursionError) as error:
        raise DposcopeError(f"{source} is not JSON ({reason(error)}); {mend}") from error


def _has_half(text: str, found: Any) -> bool:
    """Whether JSON holds half a character, as the names of some files do."""
    if _is_whole(text) and not _HALVES.search(text):
        return False
    return not _is_whole(json.dumps(found, ensure_ascii=False))


def _is_whole(text: str) -> bool:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names differ: of two values for one name, readers may take either."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it has {_shown(twice)} twice")
    return found


def _no_number(written: str) -> float:
    raise ValueError(f"{written} is no number of JSON")


def _finite(written: str) -> float:
    number = float(written)
    if math.isinf(number):
        raise ValueError(f"{_shown(written)} is too large a number")
    return number


def _whole(written: str) -> int:
    number = int(written)
    if not -_LARGEST <= number < _LARGEST:
        raise ValueError(f"{_shown(written)} is too large a number")
    return number


_OURS: Final = json.JSONDecoder(
    object_pairs_hook=_once, parse_constant=_no_number, parse_float=_finite, parse_int=_whole
)
_OTHERS: Final = json.JSONDecoder(object_pairs_hook=_once)
"""Other programs write Infinity, and whole numbers such as 10^30 for none at all."""
_KNOWN: Final = "known"
_NAMES: Final = {
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _fault(error: ValidationError, within: str = "") -> str:
    """The first thing that is wrong: `steps[0].strength is missing`."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":  # it was read before, by a parser that takes more depth
        return "it is nested too deeply"
    steps = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]]
    place = _shown(f"{within}{''.join(steps)}".lstrip("."))
    if first["type"] == "missing":
        return f"{place} is missing"
    if first["type"] == _KNOWN:
        return f"{place}.{first['msg']}"
    says = first["msg"].removeprefix("Value error, ").removeprefix("Input ").replace("dictionary", "object")
    says = says.replace(" valid ", " ").replace("a integer", "a whole number").replace("a array", "a list")
    return f"{place or 'it'} {says}"


def _shown(name: str) -> str:
    """A name from a file in a message, and not too long."""
    shown = visible(name)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"
