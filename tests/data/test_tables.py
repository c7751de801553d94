import codecs
import json
import re
import unicodedata
from pathlib import Path

import polars as pl
import pytest

import dposcope.data
from dposcope.data.named import located
from dposcope.data.tables import open_table, read_table, read_text
from dposcope.errors import DposcopeError

ROWS = [("one, two", "1"), ('a "quoted" word', "true"), ("Ünï ▁cødé", "x")]


def write(path, rows=ROWS):
    """The same rows in every format, written without the code under test."""
    match path.suffix:
        case ".jsonl" | ".ndjson":
            path.write_text("".join(json.dumps({"a": a, "b": b}) + "\n" for a, b in rows), "utf-8")
        case ".json":
            path.write_text(json.dumps([{"a": a, "b": b} for a, b in rows], indent=1), "utf-8")
        case ".csv":
            quoted = ['"' + a.replace('"', '""') + f'",{b}\n' for a, b in rows]
            path.write_text("a,b\n" + "".join(quoted), "utf-8")
        case ".tsv":
            path.write_text("a\tb\n" + "".join(f"{a}\t{b}\n" for a, b in rows), "utf-8")
        case ".parquet":
            pl.DataFrame({"a": [a for a, _ in rows], "b": [b for _, b in rows]}).write_parquet(path)
    return path


def read(path, *columns):
    return read_table(path, columns=columns or ["a"], option="--a-column")


def fails(path, match, *columns):
    with pytest.raises(DposcopeError, match=match) as caught:
        read(path, *columns)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    table = read(write(tmp_path / f"rows{suffix}"), "b", "a")
    assert table.frame.columns == ["b", "a"]
    assert table.frame.dtypes == [pl.String, pl.String]
    assert list(zip(table.texts("a"), table.texts("b"), strict=True)) == ROWS
    assert table.dropped == 0


def test_the_suffix_may_be_in_capitals(tmp_path):
    path = write(tmp_path / "rows.csv").rename(tmp_path / "rows.CSV")
    assert read(path).texts("a") == [a for a, _ in ROWS]


def test_a_text_file_gives_its_lines_to_any_single_column(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_bytes(b' one\r\n\r\n  \r\ntwo, "three"\xe2\x80\xa8four\n')
    table = read(path, "anything")
    assert table.texts("anything") == [" one", 'two, "three"\u2028four']
    assert table.dropped == 2
    fails(path, r"plain lines, but the columns 'a', 'b' are needed; give a JSONL", "a", "b")


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("rows.txt", ["x", "y z"]),
        ("rows.csv", ["b,a", "1,x", "2,y z"]),
        ("rows.tsv", ["a\tb", "x\t1", "y z\t2"]),
        ("rows.jsonl", ['{"a": "x"}', '{"a": "y z"}']),
        ("rows.json", ['[{"a": "x"},', '{"a": "y z"}]']),
    ],
)
def test_lines_of_an_old_mac_are_lines(tmp_path, name, lines):
    """And one in a file whose lines end otherwise is a character."""
    path = tmp_path / name
    path.write_bytes("\r".join([*lines, ""]).encode())
    assert read(path).texts("a") == ["x", "y z"]
    path = tmp_path / "mixed.txt"
    path.write_bytes(b"x\ry\nz\r\n")
    assert read(path).texts("a") == ["x\ry", "z"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbfa,b\nx,1\n")
    assert read(path).texts("a") == ["x"]


def test_a_quoted_csv_field_may_hold_line_breaks(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_bytes(b'a,b\r\n"one\r\ntwo",1\r\n')
    assert read(path).texts("a") == ["one\ntwo"]


def test_tsv_takes_quotation_marks_as_characters(tmp_path):
    path = tmp_path / "rows.tsv"
    path.write_text('a\tb\n"never closed\t1\n""\t2\n', "utf-8")
    assert read(path).texts("a") == ['"never closed', '""']


def test_null_and_blank_rows_are_dropped_and_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [
        {"a": "x", "b": 1},
        {"a": None, "b": 1},
        {"b": 1},
        {"a": " \n", "b": 1},
        {"a": "y", "b": None},
        {"a": "z", "b": 0},
    ]
    path.write_text("\n\n".join(json.dumps(row) for row in rows), "utf-8")
    table = read(path, "a", "b")
    assert table.texts("a") == ["x", "z"]
    assert table.dropped == 4
    assert read(path, "a").dropped == 3  # b is not asked for


def test_blank_rows_can_be_kept(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "x"}\n{"a": null}\n{"a": " "}\n', "utf-8")
    table = read_table(path, columns=["a"], option="--a-column", keep_blank=True)
    assert table.texts("a") == ["x", "", " "]
    assert table.dropped == 0


def test_cells_that_are_no_strings_become_their_json_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": true}\n{"a": 3}\n{"a": 0.25}\n{"a": {"text": "inner"}}\n{"a": {"text": null}}\n', "utf-8")
    table = read(path)
    assert table.texts("a") == ["true", "3", "0.25", "inner"]
    assert table.dropped == 1


def test_parquet_structs_with_a_text_are_that_text(tmp_path):
    path = tmp_path / "rows.parquet"
    pl.DataFrame({"a": [{"text": "inner", "score": 0.5}, {"text": None, "score": 0.1}]}).write_parquet(path)
    assert read(path).texts("a") == ["inner"]


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": "x\\ud800y"}\n{"a": "\\ud83d\\ude00"}\n', "utf-8")
    assert read(path).texts("a") == ["x?y", "😀"]


def test_a_list_is_no_text(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": ["x"], "b": "y"}\n', "utf-8")
    fails(path, r"column 'a' of .* holds a list, not text; choose with --a-column")
    assert read(path, "b").texts("b") == ["y"]


def test_a_missing_file_names_its_neighbours(tmp_path):
    write(tmp_path / "comments.csv")
    fails(tmp_path / "coments.csv", r"there is no file .*coments.csv; did you mean comments.csv\?")
    fails(tmp_path / "zzz.csv", r"there is no file .*zzz.csv; check the path")
    fails(tmp_path / "no" / "x.csv", r"its folder .*no does not exist; check the path")
    fails("owner/name", "no file owner/name: its folder owner does not exist; check the path")


def test_a_relative_name_that_is_no_file_may_be_meant_for_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    fails("owner/name", r"no file owner/name; for a data set of the Hugging Face hub write hub:owner/name")


def test_a_folder_is_no_file(tmp_path):
    fails(tmp_path, "is a folder; name a file in it")


def test_an_unknown_suffix_lists_the_known_ones(tmp_path):
    (tmp_path / "rows.xlsx").write_bytes(b"PK")
    fails(tmp_path / "rows.xlsx", r"unknown suffix '.xlsx'; convert it to one of '.jsonl', .*'.txt'")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt"])
@pytest.mark.parametrize("data", [b"", b" \n\n", codecs.BOM_UTF8, codecs.BOM_UTF8 + b"\n"])
def test_an_empty_file_is_refused(tmp_path, suffix, data):
    (tmp_path / f"rows{suffix}").write_bytes(data)
    fails(tmp_path / f"rows{suffix}", "is empty; give a file with at least one row")


@pytest.mark.parametrize(("suffix", "data"), [(".csv", b"a,b\n"), (".tsv", b"a\tb\n")])
def test_a_header_alone_holds_no_rows(tmp_path, suffix, data):
    (tmp_path / f"rows{suffix}").write_bytes(data)
    fails(tmp_path / f"rows{suffix}", "holds no rows; give a file with at least one")


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".txt"])
def test_latin1_names_the_byte_and_the_mend(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(b"a\ncaf\xe9\n")
    fails(path, rf"is not UTF-8 \(byte 5\); convert it, for example: iconv -f latin1 -t utf-8 .* > utf8\{suffix}")


def test_utf16_is_recognised(tmp_path):
    (tmp_path / "rows.csv").write_bytes("a\nx\n".encode("utf-16"))
    fails(tmp_path / "rows.csv", r"is not UTF-8 \(byte 0\); .*iconv -f utf-16 -t utf-8")


@pytest.mark.parametrize("mark", [";", "\t"])
def test_a_spreadsheets_csv_without_commas(tmp_path, mark):
    (tmp_path / "rows.csv").write_text(f'\na{mark}b\n"x{mark} y"{mark}1,5\nz{mark}2\n')
    assert dict(open_table(tmp_path / "rows.csv").columns) == {"a": [f"x{mark} y", "z"], "b": ["1,5", "2"]}
    name = {";": "semicolons", "\t": "tabs"}[mark]
    (tmp_path / "rows.csv").write_text(f"a{mark}b\nx{mark}y{mark}z\n")
    fails(tmp_path / "rows.csv", f"quote the fields that hold {name}")


def test_a_header_with_commas_is_of_commas(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b;c\n1,2;3\n")
    assert dict(open_table(tmp_path / "rows.csv").columns) == {"a": ["1"], "b;c": ["2;3"]}


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_a_missing_column_lists_those_there_and_the_option(tmp_path, suffix):
    fails(write(tmp_path / f"rows{suffix}"), r"has no column 'c', only 'a', 'b'; choose with --a-column", "a", "c")


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        (
            "r.jsonl",
            '{"a": 1}\n\n{"a": \n',
            r"line 3 of .* is not JSON \(Expecting value\); each line must be one object",
        ),
        ("r.jsonl", '[\n{"a": 1}\n]\n', r"line 1 of .* is not JSON .*; is it a JSON array\? name the file .json"),
        ("r.jsonl", '{"a": 1}\n"b"\n', "line 2 of .* is JSON but not an object; each line must be one object"),
        (
            "r.json",
            '[\n{"a": 1},\n{"a" 2}]',
            r"line 3 of .* is not JSON \(Expecting ':' delimiter\); correct that line",
        ),
        (
            "r.json",
            '{"a": 1}\n{"a": 2}\n',
            r"line 2 of .* is not JSON \(Extra data\); is it one object per line\? name the file",
        ),
        ("r.json", '{"a": 1}', r"is JSON but not an array of objects; write it as \[\{…\}, \{…\}\]"),
        ("r.json", '["a"]', "is JSON but not an array of objects"),
        ("r.csv", "a,b\nx,1\nx,y,2\n", "line 3 of .* has 3 fields, its header 2; quote the fields that hold commas"),
        ("r.csv", "a,b\nx\n", "line 2 of .* has 1 field, its header 2; quote"),
        ("r.csv", 'a,b\n"x\ny",1\nz\n', "line 4 of .* has 1 field, its header 2"),
        ("r.csv", 'a,b\n"x,1\ny,2\n', r"line 3 of .* is not CSV \(.*\); look for a quotation mark that never closes"),
        ("r.csv", "a,a\nx,1\n", r"header of .* names a column twice \('a', 'a'\); rename one"),
        ("r.tsv", "a\tb\nx\ty\t2\n", "line 2 of .* has 3 fields, its header 2; a .tsv is read without quoting"),
        ("r.parquet", "a,b\n", "is not Parquet .*; write it again or check its suffix"),
    ],
)
def test_a_malformed_file_names_the_line(tmp_path, name, text, match):
    (tmp_path / name).write_text(text, "utf-8")
    fails(tmp_path / name, match)


def test_a_column_without_any_text_is_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("a,b\n ,1\n,2\n", "utf-8")
    fails(tmp_path / "rows.csv", r"holds no text in 'a': 2 rows, each null or blank; choose with --a-column")


def test_columns_can_be_looked_at_before_one_is_chosen(tmp_path):
    assert list(open_table(write(tmp_path / "rows.csv")).columns) == ["a", "b"]


def test_a_text_is_read_whole(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"\xef\xbb\xbf one \r\n\r\ntwo")
    assert read_text(path) == " one \n\ntwo"
    path.write_bytes(b" \n")
    with pytest.raises(DposcopeError, match="is empty; give a file with some text"):
        read_text(path)


def test_a_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    path = write(tmp_path / "rows.csv")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    fails(path, re.escape(f"cannot read {path}: Permission denied; check its permissions"))


def test_a_source_of_ones_own_wins_over_the_built_in(tmp_path):
    with located(tmp_path / "x.txt", "prompts.jsonl") as path:
        assert path == tmp_path / "x.txt"
    with located("builtin:passages.jsonl", "prompts.jsonl") as path:
        assert path == Path(dposcope.data.__file__).parent / "builtin" / "passages.jsonl"
    with located(None, "prompts.jsonl") as path:
        assert str(path).endswith("builtin/prompts.jsonl")


@pytest.mark.parametrize(("written", "asked"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_found_however_its_accents_are_written(tmp_path, written, asked):
    path = tmp_path / "a.csv"
    path.write_text(unicodedata.normalize(written, "étiquette,autre\na,b\n"), encoding="utf-8")
    name = unicodedata.normalize(asked, "étiquette")
    assert read_table(path, columns=[name, "autre"], option="--x").frame.rows() == [("a", "b")]
    with pytest.raises(DposcopeError, match="no column 'e'"):
        read_table(path, columns=["e"], option="--x")
