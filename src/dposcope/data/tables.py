"""Tables of text: one reader for every format. Each cell is a string, and each error message says how to mend the
fault.

Cells are strings in every format, so that a comment "1e5" or "true" is not changed. Code that needs labels or numbers
parses them itself.
"""

import codecs
import csv
import difflib
import io
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import polars as pl

from dposcope.data.hub import is_hub_spec, read_hub
from dposcope.errors import DposcopeError, first_line, plural
from dposcope.files import MOST_DATA, check_is_path, read_regular
from dposcope.reading import reason

MOST_ROWS: Final = 10_000_000
"""Of a table; each takes hundreds of bytes of memory, however short it is. Those of the field have up to 2 million."""
_BRACES: Final = 3
"""Opening braces for a row of JSON: RealToxicityPrompts has two objects within each."""

Columns = dict[str, list[Any]]
"""Name → cells, as the format gives them."""


@dataclass(frozen=True)
class Table:
    """The usable rows of a file."""

    frame: pl.DataFrame
    """The selected columns in the given order, each of dtype String."""
    dropped: int
    """Rows that were left out because a selected cell was null or blank."""

    def texts(self, column: str) -> list[str]:
        """One column as a list."""
        return cast(list[str], self.frame[column].to_list())


@dataclass(frozen=True)
class RawTable:
    """All columns of a file, before some are selected."""

    source: str
    """Where it came from, for messages."""
    columns: Mapping[str, Sequence[Any]]
    """Name → cells. A text file without a header has one column, named ""."""

    def select(self, columns: Sequence[str], *, option: str, keep_blank: bool = False) -> Table:
        """The given columns as strings.

        Args:
            columns: their names, however their accents are written. The single column of a text file fits every name.
            option: the option that chooses other columns, for messages: "--prompt-column".
            keep_blank: keep null or blank rows as empty strings (blank lines of a raw text).

        Raises:
            DposcopeError: a column is missing or holds no text; no row is left.
        """
        by_name = dict(self.columns)
        # An accented letter is written as one character or as two, which look the same.
        alike = {unicodedata.normalize("NFC", name): cells for name, cells in by_name.items()}
        if list(by_name) == [""]:
            if len(columns) > 1:
                raise DposcopeError(
                    f"{self.source} has plain lines, but the columns {_listed(columns)} are needed; "
                    "give a JSONL, CSV, TSV or Parquet file"
                )
            by_name = {columns[0]: by_name[""]}
        for column in columns:
            if column not in by_name and (composed := unicodedata.normalize("NFC", column)) in alike:
                by_name[column] = alike[composed]
            if column not in by_name:
                raise DposcopeError(
                    f"{self.source} has no column {column!r}, only {_listed(list(by_name))}; choose with {option}"
                )
        texts = {column: self._as_text(column, by_name[column], option) for column in columns}
        count = len(texts[columns[0]])
        if count == 0:
            raise DposcopeError(f"{self.source} holds no rows; give a file with at least one")
        if keep_blank:
            return Table(_strings(texts), dropped=0)
        kept = [i for i in range(count) if all(column[i].strip() for column in texts.values())]
        if not kept:
            raise DposcopeError(
                f"{self.source} holds no text in {_listed(columns)}: {plural(count, 'row')}, each null or blank; "
                f"choose with {option}"
            )
        return Table(
            _strings({name: [column[i] for i in kept] for name, column in texts.items()}), dropped=count - len(kept)
        )

    def _as_text(self, column: str, cells: Sequence[Any], option: str) -> list[str]:
        try:
            return [_cell_text(cell) or "" for cell in cells]
        except TypeError as error:
            raise DposcopeError(
                f"column {column!r} of {self.source} holds {error}, not text; choose with {option}"
            ) from error


def read_table(path: str | Path, *, columns: Sequence[str], option: str, keep_blank: bool = False) -> Table:
    """Read the named columns of a table; `open_table` and `RawTable.select` say what is accepted."""
    return open_table(path).select(columns, option=option, keep_blank=keep_blank)


def open_table(source: str | Path) -> RawTable:
    """Read a file, whose format its suffix tells, or a data set of the Hugging Face hub (`hub:owner/name`).

    `.jsonl` and `.ndjson` (one object per line), `.json` (an array of objects), `.csv` (quoted, a
    header), `.tsv` (a header, *no* quoting: a quotation mark is an ordinary character),
    `.parquet`, `.txt` (one row per line, one column).

    Raises:
        DposcopeError: the file is missing, empty, not UTF-8, malformed or of an unknown suffix.
    """
    if isinstance(source, str) and is_hub_spec(source):
        return RawTable(source, read_hub(source))
    check_is_path(source)
    path = Path(source)
    data = _read_bytes(path)
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise DposcopeError(
            f"{path} has the unknown suffix {path.suffix!r}; convert it to one of {_listed(list(_READERS))}"
        )
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise DposcopeError(f"{path} is empty; give a file with at least one row")
    if path.suffix.lower() != ".parquet":
        # JSON may have all its objects in one line.
        lines = data.count(b"\n") or data.count(b"\r")
        _check_rows(max(lines, data.count(b"{") // _BRACES if path.suffix.lower() == ".json" else 0), path)
    return RawTable(str(path), read(data, path))


def _check_rows(count: int, path: Path) -> None:
    if count > MOST_ROWS:
        raise DposcopeError(f"{path} has {count:,} rows or more, and at most {MOST_ROWS:,} are read; give a part of it")


def read_text(path: str | Path) -> str:
    """A UTF-8 text file, whole, its line ends as "\\n" and without a byte-order mark.

    Raises:
        DposcopeError: it is missing, empty or not UTF-8.
    """
    text = _decode(_read_bytes(Path(path)), Path(path))
    if not text.strip():
        raise DposcopeError(f"{path} is empty; give a file with some text")
    return text


def _read_bytes(path: Path) -> bytes:
    try:
        return read_regular(path)
    except FileNotFoundError as error:
        raise DposcopeError(f"there is no file {path}{_mend_missing(path)}") from error
    except OSError as error:
        raise DposcopeError(f"cannot read {path}: {error.strerror or error}; check its permissions") from error


def _mend_missing(path: Path) -> str:
    if not path.parent.is_dir():
        return f": its folder {path.parent} does not exist; check the path"
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=3)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    if is_hub_spec(f"hub:{path}"):
        return f"; for a data set of the Hugging Face hub write hub:{path}"
    return "; check the path"


def _decode(data: bytes, path: Path) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        raise DposcopeError(
            f"{path} is not UTF-8 (byte {error.start:,}); convert it, for example: "
            f"iconv -f {'utf-16' if utf16 else 'latin1'} -t utf-8 {path} > utf8{path.suffix}"
        ) from error
    text = text.replace("\r\n", "\n")
    # Where no line ends otherwise, they end as on an old Mac.
    return text if "\n" in text else text.replace("\r", "\n")


def _read_jsonl(data: bytes, path: Path) -> Columns:
    rows: list[Any] = []
    for number, line in enumerate(_decode(data, path).split("\n"), start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                mend = (
                    "; is it a JSON array? name the file .json"
                    if line.strip() == "["
                    else "; each line must be one object"
                )
                raise DposcopeError(f"line {number:,} of {path} is not JSON ({_fault(error)}){mend}") from error
            if not isinstance(rows[-1], dict):
                raise DposcopeError(
                    f"line {number:,} of {path} is JSON but not an object; each line must be one object"
                )
    return _transpose(rows)


def _read_json(data: bytes, path: Path) -> Columns:
    try:
        rows = json.loads(_decode(data, path))
    except json.JSONDecodeError as error:
        mend = (
            "; is it one object per line? name the file .jsonl" if error.msg == "Extra data" else "; correct that line"
        )
        raise DposcopeError(f"line {error.lineno:,} of {path} is not JSON ({error.msg}){mend}") from error
    except (ValueError, RecursionError) as error:
        raise DposcopeError(f"{path} is not JSON ({_fault(error)}); correct it") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in cast(list[Any], rows)):
        raise DposcopeError(f"{path} is JSON but not an array of objects; write it as [{{…}}, {{…}}]")
    return _transpose(cast(list[dict[str, Any]], rows))


def _fault(error: ValueError | RecursionError) -> str:
    """In a line that is named beside it."""
    return error.msg if isinstance(error, json.JSONDecodeError) else reason(error)


def _read_csv(data: bytes, path: Path) -> Columns:
    text = _decode(data, path)
    # newline="" lets the csv module keep line breaks that are quoted.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=_delimiter(text))
    # Its own limit on the length of a field is that of the process; a text may be as long as the file.
    limit = csv.field_size_limit(max(len(data), csv.field_size_limit()))
    try:
        records = [(reader.line_num, record) for record in reader if record]
    except csv.Error as error:
        raise DposcopeError(
            f"line {reader.line_num:,} of {path} is not CSV ({error}); look for a quotation mark that never closes"
        ) from error
    finally:
        csv.field_size_limit(limit)
    return _with_header(records, path, mend=f"quote the fields that hold {_NAMES[_delimiter(text)]}")


_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}


def _delimiter(text: str) -> str:
    """A comma; where the header has none, the semicolon or the tab that spreadsheets write in its place."""
    header = text.lstrip("\r\n").partition("\n")[0]
    return "," if "," in header else next((mark for mark in ";\t" if mark in header), ",")


def _read_tsv(data: bytes, path: Path) -> Columns:
    lines = _decode(data, path).split("\n")
    records = [(number, line.split("\t")) for number, line in enumerate(lines, start=1) if line]
    return _with_header(records, path, mend="a .tsv is read without quoting, so no field may hold a tab")


def _read_parquet(data: bytes, path: Path) -> Columns:
    try:
        # A thousand million equal rows take a few bytes in such a file, and are told by its last ones.
        _check_rows(int(pl.scan_parquet(io.BytesIO(data)).select(pl.len()).collect().item()), path)
        frame = pl.read_parquet(io.BytesIO(data))
        size = frame.estimated_size()  # equal texts are still kept once
        if size > MOST_DATA:
            raise DposcopeError(f"{path} holds {size:,} bytes of data, and at most {MOST_DATA:,} are read; give a part")
        return frame.to_dict(as_series=False)
    except pl.exceptions.PolarsError as error:
        reason = first_line(error)
        raise DposcopeError(f"{path} is not Parquet ({reason}); write it again or check its suffix") from error


def _read_txt(data: bytes, path: Path) -> Columns:
    return {"": _decode(data, path).removesuffix("\n").split("\n")}


_READERS: Final[dict[str, Callable[[bytes, Path], Columns]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
}


def _with_header(records: list[tuple[int, list[str]]], path: Path, *, mend: str) -> Columns:
    (_, header), *rows = records
    if len(set(header)) < len(header):
        raise DposcopeError(f"the header of {path} names a column twice ({_listed(header)}); rename one")
    for number, fields in rows:
        if len(fields) != len(header):
            raise DposcopeError(
                f"line {number:,} of {path} has {plural(len(fields), 'field')}, its header {len(header)}; {mend}"
            )
    return {name: [fields[i] for _, fields in rows] for i, name in enumerate(header)}


def _transpose(rows: list[dict[str, Any]]) -> Columns:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _cell_text(cell: Any) -> str | None:
    """A cell as text, or a TypeError that names its type. RealToxicityPrompts has objects with a `text`."""
    match cell:
        case None | str():
            return cell
        case bool():
            return str(cell).lower()
        case int() | float():
            return repr(cell)
        case {"text": None | str() as text}:
            return text
        case _:
            raise TypeError(f"a {type(cell).__name__}")


def _strings(columns: Mapping[str, Sequence[str]]) -> pl.DataFrame:
    schema = dict.fromkeys(columns, pl.String)
    try:
        return pl.DataFrame(columns, schema=schema)
    except UnicodeEncodeError:
        # JSON can hold half of a surrogate pair, which tables and tokenizers refuse. It becomes "?".
        whole = {name: [cell.encode(errors="replace").decode() for cell in cells] for name, cells in columns.items()}
        return pl.DataFrame(whole, schema=schema)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
