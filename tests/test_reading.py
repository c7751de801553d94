"""The door: what passes is of its schema, and whatever else a file holds is told in one line with its place."""

import errno
import json
import os
import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dposcope.artefacts import write_json
from dposcope.errors import DposcopeError
from dposcope.reading import known, parse_json, parse_object, read_json, read_object, read_toml


@dataclass(frozen=True)
class Part:
    size: int

    def __post_init__(self):
        if self.size < 0:
            raise DposcopeError("a part is smaller than nothing; leave it out")


@dataclass(frozen=True)
class Whole:
    name: str
    share: float
    parts: tuple[Part, ...] = ()
    by_name: dict[str, Part] = field(default_factory=dict)
    kind: Literal["a", "b"] = "a"
    limit: float | None = None
    about: Annotated[dict[str, Any], known(seed=int, quality=dict[str, float])] = field(default_factory=dict)


def whole(**others: object) -> str:
    return json.dumps({"name": "x", "share": 1, **others})


def test_a_file_that_fits_becomes_a_value(tmp_path):
    path = tmp_path / "a.json"
    told = whole(parts=[{"size": 1}], by_name={"y": {"size": 2}}, about={"seed": 3, "free": [None]}, unknown={})
    path.write_text(told)
    assert read_json(path, Whole) == Whole("x", 1.0, (Part(1),), {"y": Part(2)}, about={"seed": 3, "free": [None]})
    path.write_bytes(b"\xef\xbb\xbf" + told.encode())  # as some editors begin a file
    assert read_json(path, Whole).name == "x"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=json_values)
def test_json_comes_back_as_it_was(tmp_path_factory, value):
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return  # a lone surrogate is no text
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, {"it": value})
    assert read_object(path) == {"it": value}
    again = read_json(path, dict[str, Any])
    assert again == {"it": value}
    assert repr(again) == repr({"it": value}), "to the bit, and of the same types"


NO_JSON = {
    "": r"it is empty|Expecting value",
    "{": r"Expecting property name .*, line 1",
    "\n\n[1": r"line 3",
    "[" * 100_000: "nested too deeply",
    "9" * 5_000: "a number has too many digits",
    '{"a": 1, "a": 2}': "it has a twice",
    '{"\\u001b[2J": 1, "\\u001b[2J": 2}': "it has ␛\\[2J twice",
}
"""Text → what is said of it."""
NOT_OURS = {
    "NaN": "NaN is no number of JSON",
    "[-Infinity]": "-Infinity is no number of JSON",
    '{"name": ' + "[" * 300 + "]" * 300 + "}": "nested too deeply",
    "1e999": "1e999 is too large a number",
    "9223372036854775808": "9223372036854775808 is too large a number",
}
"""Other programs write these."""


@pytest.mark.parametrize("text", [*NO_JSON, *NOT_OURS], ids=lambda text: repr(text[:20]))
def test_text_that_is_no_json_is_told_in_a_line(text):
    for said in (
        refused(lambda: parse_json(text, Whole, source="F", mend="make it again")),
        refused(lambda: parse_object(text, source="F", mend="make it again")) if text not in NOT_OURS else None,
    ):
        if said is not None:
            assert re.search((NO_JSON | NOT_OURS)[text], said)
            assert said.startswith("F is ")
            assert said.endswith("; make it again")


def refused(read) -> str:
    with pytest.raises(DposcopeError) as told:
        read()
    said = str(told.value)
    assert said.isprintable(), "one line, and nothing that a terminal obeys"
    assert len(said) < 400
    return said


FAULTS = {
    "[]": "it should be an object",
    "null": "it should be an object",
    "7": "it should be an object",
    "{}": "name is missing",
    '{"name": "x"}': "share is missing",
    whole(name=1): "name should be a string",
    whole(share="1"): "share should be a number",
    whole(share=None): "share should be a number",
    whole(parts={}): "parts should be a list",
    whole(parts=[{"size": 1}, {}]): "parts[1].size is missing",
    whole(parts=[{"size": 1.5}]): "parts[0].size should be a whole number",
    whole(parts=[{"size": True}]): "parts[0].size should be a whole number",
    whole(by_name={"a b": {"size": "1"}}): "by_name.a b.size should be a whole number",
    whole(by_name={"\u001b[2J": 3}): "by_name.␛[2J should be an object",
    whole(by_name={"a" * 1_000: 3}): f"by_name.{'a' * 112}… should be an object",
    whole(kind="c"): "kind should be 'a' or 'b'",
    whole(limit="x"): "limit should be a number",
    whole(about={"seed": "x"}): "about.seed should be a whole number",
    whole(about={"quality": {"auc": []}}): "about.quality.auc should be a number",
}


@pytest.mark.parametrize("text", FAULTS, ids=lambda text: text[:60])
def test_what_does_not_fit_is_told_with_its_place(text):
    said = refused(lambda: parse_json(text, Whole, source="F"))
    assert said == f"F is damaged or of another version: {FAULTS[text]}; delete it and run again"


def test_what_a_value_refuses_is_told_with_the_file():
    said = refused(lambda: parse_json(whole(parts=[{"size": -1}]), Whole, source="F"))
    assert said == "F is damaged or of another version: a part is smaller than nothing; leave it out"


def test_objects_of_other_programs_may_hold_anything():
    text = '{"a": Infinity, "b": 1000000000000000019884624838656, "c": ["\\ud800"], "d": 1e999}'
    assert parse_object(text, source="F")["c"] == ["\ud800"]
    for text, noun in {
        "[]": "a list",
        '"x"': "a text",
        "7": "a number",
        "true": "true or false",
        "null": "null",
    }.items():
        assert refused(lambda text=text: parse_object(text, source="F", mend="M")) == (
            f"F holds {noun} where an object belongs; M"
        )


def no_file(folder: Path) -> Path:
    return folder / "gone.json"


def a_folder(folder: Path) -> Path:
    return folder


def a_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def a_socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(folder / "socket"))
    return folder / "socket"


def holding(content: bytes):
    def make(folder: Path) -> Path:
        (folder / "a.json").write_bytes(content)
        return folder / "a.json"

    return make


@pytest.mark.skipif(os.name != "posix", reason="POSIX files")
@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (no_file, "No such file or directory; check the path"),
        (a_folder, "is a folder; name a file in it"),
        (a_pipe, "is a pipe; copy what it gives into a file"),
        (a_socket, "is a socket; copy what it gives into a file"),
        (holding(b"\xff\xfe{}"), r"is not UTF-8 \(byte 0\); M"),
        (holding(b'{"a": "\xe9"}'), r"is not UTF-8 \(byte 7\); M"),
    ],
)
def test_what_is_no_readable_file_is_told(tmp_path, monkeypatch, make, fault):
    monkeypatch.chdir(tmp_path)  # a socket's name must be short
    path = make(Path())
    reads = (
        lambda: read_json(path, Whole, mend="M"),
        lambda: read_object(path, mend="M"),
        lambda: read_toml(path, mend="M"),
    )
    for read in reads:
        assert re.search(fault, refused(read))


def test_a_file_that_may_not_be_read_is_told(tmp_path, monkeypatch):
    """Root may read every file."""

    def denied(_path, **_options):
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "a.json").write_text("{}")
    monkeypatch.setattr("dposcope.reading.read_regular", denied)
    said = refused(lambda: read_object(tmp_path / "a.json"))
    assert said == f"cannot read {tmp_path}/a.json: Permission denied; allow it with: chmod u+r {tmp_path}/a.json"


def test_an_empty_file_is_no_json_but_is_toml(tmp_path):
    (tmp_path / "a").write_text(" \n")
    assert re.search("a is empty; M", refused(lambda: read_object(tmp_path / "a", mend="M")))
    assert read_toml(tmp_path / "a", mend="M") == {}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a = 1\na = 2", "Cannot overwrite a value"),
        ("a = ", "Invalid value"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        ("a = " + "9" * 5_000, "a number has too many digits"),
    ],
    ids=["twice", "cut", "deep", "long"],
)
def test_what_is_no_toml_is_told_in_a_line(tmp_path, text, fault):
    (tmp_path / "a.toml").write_text(text)
    said = refused(lambda: read_toml(tmp_path / "a.toml", mend="mend it there"))
    assert re.search(rf"a\.toml is not TOML \(.*{fault}.*\); mend it there", said)
