"""Tables as text: whatever a token holds, it fills one cell and shows itself there."""

import csv
import html
import io
import json
import math
import re
import unicodedata
from dataclasses import replace

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2 import Environment, PackageLoader
from markdown_it import MarkdownIt

from dposcope.data.masking import mask_offensive, read_encoded
from dposcope.errors import DposcopeError
from dposcope.evaluation.numbers import COUNT, FACT, MEAN, P_VALUE, SHARE, TOKENS
from dposcope.evaluation.statistics.intervals import Estimate, columns_of
from dposcope.report.masked_text import ShownText
from dposcope.report.table import Column, Table, frame_of, of_run, write_parquet

STRONG = read_encoded("fuvg")
HOSTILE = [
    *("|", "a|b", "_x_", "*bold*", "`code`", "<b>", "[a](b)", "&amp;", "\\", "\\|", "$x$", "~~gone~~", "#", "x^2 %"),
    *("a\nb", "\r\n", "\t", "a\x00b", "\u202eflipped", "\u200bhidden", "soft\xadhyphen", "\u2066", "\ufeff", "{}"),
    *("", " ", "−", "Σ Δ", "↓", "α × β ≤ λ", "<script>alert(1)</script>", "\U000e0041", '"', "'", "--", "[5pt]", "*"),
]
FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u2065\u2800\u3164\uffa0"  # shown by no font
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def table(cells, **parts) -> Table:
    frame = pl.DataFrame({"n": [1], "word": [cells[0]], "tokens": pl.Series([list(cells)], dtype=pl.List(pl.String))})
    view = pl.DataFrame({f"c{i}": [cell] for i, cell in enumerate(cells)})
    columns = tuple(Column(f"c{i}", f"h{i}") for i, _ in enumerate(cells))
    return Table("table-99-test", "T", frame, columns, view=view, **parts)


def hidden(char: str) -> bool:
    """Whether it breaks a line, changes the writing direction, is never seen, or is no character at all."""
    code = ord(char)
    return (
        unicodedata.category(char) in {"Cc", "Cf", "Zl", "Zp"}
        or char in FILLERS
        or code & 0xFFFF >= 0xFFFE
        or code in (*range(0xFDD0, 0xFDF0), *range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000))
    )


def visible(text: str) -> str:
    return "".join("\ufffd" if hidden(char) else char for char in text)


def marked(text: str) -> str:
    """On one line, as Markdown has it."""
    return "".join(
        (chr(0x2400 + ord(char)) if char < " " else f"U+{ord(char):04X}") if hidden(char) else char
        for char in " ".join(text.split())
    )


def rendered(markdown: str) -> list[list[str]]:
    """Rows of cells as a Markdown reader shows them, HTML left as it is."""
    tokens = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).parse(markdown)
    rows: list[list[str]] = []
    for place, token in enumerate(tokens):
        if token.type == "tr_open":
            rows.append([])
        if token.type in ("th_open", "td_open"):
            children = tokens[place + 1].children or []
            assert {child.type for child in children} <= {"text", "text_special"}, "a token became markup"
            rows[-1].append("".join(child.content for child in children))
    return rows


@given(st.lists(texts, min_size=1, max_size=4))
@example(HOSTILE)
def test_markdown_shows_every_cell_as_it_is(cells):
    rows = rendered(table(cells).markdown(raw=True))
    assert rows[1:] == [[marked(cell) for cell in cells]]


def test_markdown_has_its_title_above_and_its_notes_below():
    text = table(["a"], notes=("|Δ| of <x>", "second")).markdown()
    assert text == "**T**\n\n| h0 |\n| --- |\n| a |\n\n\\|Δ\\| of \\<x\\>\n\nsecond\n"


# A reader of the LaTeX that tables use, written from what the macros mean.
MEANS = {
    **{f"\\{letter}": letter for letter in "&%$#_{}"},
    **{"\\textbackslash{}": "\\", "\\textasciitilde{}": "~", "\\textasciicircum{}": "^", "\\textbar{}": "|"},
    **{"\\textless{}": "<", "\\textgreater{}": ">", "\\textasciigrave{}": "`", "\\textdagger{}": "†"},
    **{"\\textdegree{}": "°", "\\ldots{}": "…", "{[}": "[", "{*}": "*", "-{}": "-"},
    **{"$-$": "−", "$\\times$": "×", "$\\leq$": "≤", "$\\geq$": "≥", "$\\cdot$": "·", "$\\downarrow$": "↓"},
    **{"$\\uparrow$": "↑", "$\\alpha$": "α", "$\\beta$": "β", "$\\lambda$": "λ", "$\\sigma$": "σ"},
    **{"$\\Delta$": "Δ", "$\\Sigma$": "Σ"},
}
ATOM = re.compile("|".join(map(re.escape, sorted(MEANS, key=len, reverse=True))) + "|.", re.DOTALL)


def read_latex(line: str) -> list[str]:
    """Cells of one row; a character that LaTeX would take for itself is refused."""
    assert line.endswith(r" \\")
    cells = []
    for cell in line.removesuffix(r" \\").split(" & "):
        atoms = ATOM.findall(cell)
        assert all(atom in MEANS or atom not in set("\\&%$#_{}~^[*`") for atom in atoms), f"{cell!r} in {line!r}"
        cells.append("".join(MEANS.get(atom, atom) for atom in atoms))
    return cells


@given(st.lists(texts, min_size=2, max_size=4))
@example(HOSTILE)
def test_latex_shows_every_cell_as_it_is(cells):
    lines = table(cells).latex(raw=True).split("\n")
    body = lines[lines.index("\\midrule") + 1 : lines.index("\\bottomrule")]
    assert len(body) == 1
    assert read_latex(body[0]) == [visible(cell).replace("\ufffd", "?") for cell in cells]


def test_latex_never_runs_hyphens_together_and_has_a_column_per_cell():
    text = table(["a---b", "c"], notes=("100 % of x_i",)).latex()
    assert "a-{}-{}-b & c \\\\" in text
    assert "\\begin{tabular}{ll}" in text
    assert "\\caption{T 100 \\% of x\\_i}" in text
    assert text.count("\\begin") == text.count("\\end") == 2


@given(st.lists(texts, min_size=1, max_size=4))
@example(HOSTILE)
def test_csv_reads_back(cells):
    text = table(cells).csv(raw=True)
    assert not any(map(hidden, text.replace("\n", "")))
    head, row = csv.reader(io.StringIO(text))
    assert head == ["n", "word", "tokens"]
    assert row[:2] == ["1", visible(cells[0])]
    assert json.loads(row[2]) == cells


def test_csv_keeps_numbers_gaps_and_lists_of_flags():
    frame = pl.DataFrame({"a": [0.1 + 0.2, None], "word": ["x", None], "flags": [[True, False], None]})
    head, *rows = csv.reader(io.StringIO(Table("t", "T", frame, (Column("a", "a"),)).csv()))
    assert head == ["a", "word", "flags"]
    assert rows == [["0.30000000000000004", "x", "[true, false]"], ["", "", ""]]


@pytest.mark.parametrize("word", [STRONG, f" {STRONG}", f"\n{STRONG}", f"\t{STRONG}", f"{STRONG}\\"])
def test_offensive_words_are_starred_everywhere_unless_raw(word):
    # An escape of JSON ends in a letter, which must not hide the word behind it.
    made = Table("t", f"T {word}", table([word]).frame, (Column("word", word),), (f"note {word}",))
    for form in (made.markdown, made.latex, made.csv):
        assert STRONG in form(raw=True)
        assert STRONG not in form()
    assert json.loads(next(csv.DictReader(io.StringIO(made.csv())))["tokens"]) == [mask_offensive(word)]


def test_it_is_saved_in_four_forms_and_parquet_keeps_the_numbers_to_the_bit(tmp_path):
    made = table([STRONG, "b|c"])
    made.save(tmp_path / "tables")
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == [
        f"table-99-test.{ending}" for ending in ("csv", "md", "parquet", "tex")
    ]
    assert pl.read_parquet(tmp_path / "tables/table-99-test.parquet").equals(made.to_polars())
    for ending, text in {"csv": made.csv(), "md": made.markdown(), "tex": made.latex()}.items():
        assert (tmp_path / f"tables/table-99-test.{ending}").read_text("utf-8") == text
    made.save(tmp_path / "tables", raw=True)
    assert STRONG in (tmp_path / "tables/table-99-test.md").read_text("utf-8")


def test_a_file_is_whole_or_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    write_parquet(path, pl.DataFrame({"a": [1]}))
    old = path.read_bytes()

    def full(_self, _data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(DposcopeError, match=r"cannot write .*a\.parquet: .*; free some space"):
        write_parquet(path, pl.DataFrame({"a": [2]}))
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


def test_of_a_run_protocol_model_and_fingerprint_come_first_in_every_row():
    frame = pl.DataFrame({"n": [1, 2], "model": ["other", "other"]})
    made = Table("t", "T", frame, (Column("n", "h"),)).of_run(model="m", fingerprint="f", protocol="strict")
    assert made.to_polars().columns == ["protocol", "model", "fingerprint", "n"]
    assert made.to_polars().rows() == [("strict", "m", "f", 1), ("strict", "m", "f", 2)]
    assert made.rows == (("1",), ("2",))
    empty = of_run(frame.clear(), model="m", fingerprint="f", protocol="strict")
    assert (len(empty), empty.columns) == (0, ["protocol", "model", "fingerprint", "n"]), "no rows are made of none"


def test_columns_of_nothing_are_refused():
    frame = pl.DataFrame({"a": [1]})
    with pytest.raises(DposcopeError, match=r"table t shows b_low, b_high, and its frame has a; name columns of"):
        Table("t", "T", frame, (Column("a", "a", interval=("b_low", "b_high")),))
    with pytest.raises(DposcopeError, match="table t shows nothing, and its frame has a"):
        Table("t", "T", frame, ())
    Table("t", "T", frame, (Column("b", "b"),), view=pl.DataFrame({"b": [1]}))


# From numbers to cells, against a rendering by hand

NUMBERS = pl.DataFrame(
    {
        "name": ["a", "b|c", None],
        "mean": [0.21875, -0.0001, None],
        "mean_low": [0.1875, -0.0004, 0.1],
        "mean_high": [0.25, 0.0003, 0.2],
        "mark": ["†", "", None],
        "share": [0.239, -0.1, 1.0],
        "share_low": [0.12, None, None],
        "share_high": [0.361, None, None],
        "many": [12345, -3, 0],
        "p": [1e-9, 0.25, None],
        "tokens": [[" x ", "", "y"], [], ["z"]],
        "given": [2.5, 0.5, 7.0],
        "format": ["fixed 1", "percent 0", "signed points 2"],
        "yes": [True, False, None],
    }
)
COLUMNS = (
    Column("name", "name"),
    Column.ranged("mean", "mean", MEAN, mark="mark"),
    Column.ranged("share", "share", SHARE),
    Column("many", "many", COUNT),
    Column("p", "p", P_VALUE),
    Column("tokens", "tokens", TOKENS),
    Column("given", "given", formats="format"),
    Column("yes", "yes", FACT),
)
ROWS = (
    ("a", "0.219 (0.188–0.250)†", "23.9 % (12.0–36.1)", "12,345", "< 0.0001", "x, y", "2.5", "yes"),
    ("b|c", "0.000 (0.000–0.000)", "−10.0 %", "−3", "0.2500", "", "50 %", "no"),
    ("–", "–", "100.0 %", "0", "–", "z", "+7.00 %", "–"),
)


def shown() -> Table:
    return Table("t", "T <i>", NUMBERS, COLUMNS, ("N.", "O."), number=7)


def test_cells_are_the_numbers_in_their_formats():
    assert shown().rows == ROWS
    assert shown().head == tuple(column.label for column in COLUMNS)
    first = shown().cells[0][1]
    assert (first.value, first.interval, first.mark) == ("0.219", "0.188–0.250", "†")
    assert [column.numeric for column in COLUMNS] == [False, True, True, True, True, False, True, True]


def test_too_few_items_for_an_interval_are_told_in_its_place():
    few = Estimate(0.219, -math.inf, math.inf, 1)
    lines = [columns_of("x", one) | {"of": "a"} for one in (few, Estimate(0.219, 0.188, 0.25, 12), None)]
    made = Table("t", "T", frame_of(lines), (Column("of", "of"), Column.measured("x", "x", MEAN)))
    assert [row[1] for row in made.rows] == ["0.219 (n = 1, no interval)", "0.219 (0.188–0.250)", "–"]
    assert Table.from_json(json.loads(json.dumps(made.to_json()))).rows == made.rows
    assert '0.219<span class="interval">n = 1, no interval</span>' in render_table(made)
    older = made.to_json()  # without the number of items
    del older["columns"][1]["items"]
    assert Table.from_json(older).rows[0] == ("a", "0.219")


def test_markdown_and_latex_hold_every_cell():
    body = rendered(shown().markdown())[1:]
    assert body == [[cell.strip() for cell in row] for row in ROWS]
    lines = shown().latex().split("\n")
    rows = [read_latex(line) for line in lines[lines.index("\\midrule") + 1 : lines.index("\\bottomrule")]]
    assert rows == [list(row) for row in ROWS]


def test_html_holds_every_cell_escaped_and_masked():
    made = replace(shown(), title=f"T <i> {STRONG}", frame=NUMBERS.with_columns(name=pl.lit(f"<script>{STRONG}")))
    page = render_table(made)
    assert STRONG not in page
    assert "<script>" not in page
    assert "T &lt;i&gt; " in page
    assert '<td class="number">0.219†<span class="interval whole">0.188–0.250</span></td>' in page
    assert '<td class="number">−10.0 %</td>' in page
    assert "<td>x, y</td>" in page
    assert '<th scope="col" class="number">many</th>' in page
    assert '<th scope="col">tokens</th>' in page
    assert '<p class="legend">N. O.</p>' in page
    values = re.findall(r"<td[^>]*>([^<]*)", page)
    naive = [re.sub(r" \([^()]*\)", "", cell) for row in ROWS for cell in row[1:]]
    assert [html.unescape(value) for value in values] == naive


def render_table(made: Table) -> str:
    """By the macro that every page uses."""
    environment = Environment(loader=PackageLoader("dposcope", ""), autoescape=True, finalize=ShownText().finalize)
    environment.filters["plain"] = ShownText().plain
    environment.filters["token"] = environment.filters["fixed"] = environment.filters["signed"] = str
    environment.filters["between"] = str
    source = '{% import "report/templates/parts.html.jinja" as parts with context %}{{ parts.given_table("x", table) }}'
    return environment.from_string(source).render(table=made)


def test_json_brings_back_every_number_to_the_bit():
    made = replace(shown(), view=NUMBERS.head(2))
    again = Table.from_json(json.loads(json.dumps(made.to_json(), allow_nan=False)))
    assert again.frame.equals(made.frame)
    assert again.frame.schema == made.frame.schema
    assert again.view is not None
    assert again.view.equals(NUMBERS.head(2))
    assert (again.columns, again.rows) == (made.columns, ROWS[:2])
    assert (again.name, again.title, again.notes, again.number) == (made.name, made.title, made.notes, 7)
    assert Table.from_json(shown().to_json()).view is None
    assert Table.from_json(replace(made, frame=NUMBERS.clear()).to_json()).frame.schema == NUMBERS.schema


def test_an_awkward_number_survives_json():
    frame = pl.DataFrame({"x": [0.1 + 0.2, 5e-324, 1e308, -0.0, 3.0]})
    again = Table.from_json(json.loads(json.dumps(Table("t", "T", frame, (Column("x", "x", MEAN),)).to_json())))
    assert [value.hex() for value in again.frame["x"]] == [value.hex() for value in frame["x"]]
