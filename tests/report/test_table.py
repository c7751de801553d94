"""Tables as text: whatever a token holds, it fills one cell and shows itself there."""

import csv
import io
import json
import re

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from dposcope.data.masking import mask_offensive, read_encoded
from dposcope.errors import DposcopeError
from dposcope.report.table import Table, of_run, write_parquet

STRONG = read_encoded("fuvg")
HOSTILE = [
    *("|", "a|b", "_x_", "*bold*", "`code`", "<b>", "[a](b)", "&amp;", "\\", "\\|", "$x$", "~~gone~~", "#", "x^2 %"),
    *("a\nb", "\r\n", "\t", "a\x00b", "\u202eflipped", "\u200bhidden", "soft\xadhyphen", "\u2066", "\ufeff", "{}"),
    *("", " ", "−", "Σ Δ", "↓", "α × β ≤ λ", "<script>alert(1)</script>", "\U000e0041", '"', "'", "--", "[5pt]", "*"),
]
HIDDEN = (
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f]"
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def table(cells, **parts) -> Table:
    frame = pl.DataFrame({"n": [1], "word": [cells[0]], "tokens": pl.Series([list(cells)], dtype=pl.List(pl.String))})
    return Table("table-99-test", "T", frame, tuple(f"h{i}" for i, _ in enumerate(cells)), (tuple(cells),), **parts)


def visible(text: str) -> str:
    return re.sub(HIDDEN, "\ufffd", text)


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
    assert rows[1:] == [[visible(cell).strip() for cell in cells]]


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
    assert not re.search(HIDDEN, text.replace("\n", ""))
    head, row = csv.reader(io.StringIO(text))
    assert head == ["n", "word", "tokens"]
    assert row[:2] == ["1", visible(cells[0])]
    assert json.loads(row[2]) == cells


def test_csv_keeps_numbers_gaps_and_lists_of_flags():
    frame = pl.DataFrame({"a": [0.1 + 0.2, None], "word": ["x", None], "flags": [[True, False], None]})
    head, *rows = csv.reader(io.StringIO(Table("t", "T", frame, ("a",), ()).csv()))
    assert head == ["a", "word", "flags"]
    assert rows == [["0.30000000000000004", "x", "[true, false]"], ["", "", ""]]


@pytest.mark.parametrize("word", [STRONG, f" {STRONG}", f"\n{STRONG}", f"\t{STRONG}", f"{STRONG}\\"])
def test_offensive_words_are_starred_everywhere_unless_raw(word):
    # An escape of JSON ends in a letter, which must not hide the word behind it.
    made = Table("t", f"T {word}", table([word]).frame, (word,), ((word,),), (f"note {word}",))
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


def test_of_a_run_model_and_protocol_come_first_in_every_row():
    frame = pl.DataFrame({"n": [1, 2], "model": ["other", "other"]})
    made = Table("t", "T", frame, ("h",), (("1",), ("2",))).of_run(model="m", protocol="strict")
    assert made.to_polars().columns == ["protocol", "model", "n"]
    assert made.to_polars().rows() == [("strict", "m", 1), ("strict", "m", 2)]
    assert made.rows == (("1",), ("2",))
    empty = of_run(frame.clear(), model="m", protocol="strict")
    assert (len(empty), empty.columns) == (0, ["protocol", "model", "n"]), "no rows are made of none"


def test_rows_of_another_length_are_refused():
    with pytest.raises(DposcopeError, match="a row of table t has 2 cells, its head 1; give one cell each"):
        Table("t", "T", pl.DataFrame(), ("a",), (("1", "2"),))
