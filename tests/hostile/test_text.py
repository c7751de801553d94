"""Every exit for text that is not ours, with everything that such text may try."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import polars as pl
import pytest
import yaml
from markdown_it import MarkdownIt
from rich.console import Console

from dposcope import terminal
from dposcope.artefacts import write_json, write_text
from dposcope.cli import console
from dposcope.cli.console import Bars, Lines, print_facts, print_scores, print_table
from dposcope.cli.shown.pair_tables import print_statistics
from dposcope.data.concept import TOXICITY
from dposcope.foreign_text import MOST, code, front_matter, json_text, markdown, one_line
from dposcope.interventions.edit import Edit
from dposcope.interventions.gains import Gains
from dposcope.jobs.dpo.training_record import tuned_card
from dposcope.pairs.checks import PairScores, PairStatistics
from dposcope.reading import read_object
from dposcope.report.edit.render import render_page
from dposcope.report.figures import Row, figure_svg, interval_dots, save_figure
from dposcope.report.front import front_figure
from dposcope.report.table import Column, Table
from dposcope.shipping.adapters import GAINS, adapter_card
from dposcope.shipping.model_card import model_card
from helpers.families import random_gains
from helpers.foreign import HOSTILE, assert_inert, drawn
from helpers.html import Parsed
from helpers.pages import estimate, page, whole_page
from helpers.training_facts import TRAINING

everything = pytest.mark.parametrize("what", HOSTILE)


def said(show: Callable[[], object]) -> str:
    """What `show` writes on a terminal of 120 columns, and on the error stream."""
    stream, errors = io.StringIO(), io.StringIO()
    options = {"highlight": False, "soft_wrap": False, "markup": False, "emoji": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminal, "out", Console(file=stream, width=120, **options))
        for module in (terminal, console):
            patch.setattr(module.sys, "stderr", errors)
            patch.setattr(module.sys, "stdout", stream)
        show()
    return stream.getvalue() + errors.getvalue()


def table(text: str) -> Table:
    """The text in every place of a table."""
    frame = pl.DataFrame(
        {"n": [1], "word": [_whole(text)], "list": pl.Series([[_whole(text)]], dtype=pl.List(pl.String))}
    )
    return Table("t", text, frame, (Column("word", text), Column("n", "n")), notes=(text,))


def _whole(text: str) -> str:
    """A frame holds no half of a surrogate pair."""
    return text.encode("utf-8", "replace").decode()


def statistics(text: str) -> PairStatistics:
    number = estimate(0.5, 0.1, 20)
    return PairStatistics(1, 1, 1, 1, 1, scores=PairScores(text, number, number, number, None))


def logged(text: str) -> None:
    """A log of a job whose every stage takes long."""
    clock = iter(range(0, 10_000, 100))
    with Lines(time=lambda: next(clock)) as lines:
        lines.stage(text)
        lines.progress(1, 9)
        lines.progress(2, 9)
        lines.note(text)
        lines.reused(text)


def complained(text: str) -> None:
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        terminal.show_traceback(type(error), error, error.__traceback__)


def scores_of(text: str):
    """The text as model, concept, protocol and names."""
    scores = whole_page(further=(_whole(text),)).scores
    return replace(scores, model=text, concept=text)


TERMINAL: dict[str, Callable[[str], object]] = {
    "line": terminal.say,
    "error": terminal.complain,
    "traceback": complained,
    "JSON": lambda text: terminal.print_json({text: [text]}),
    "table": lambda text: print_table(table(text)),
    "facts": lambda text: print_facts([(text, text)]),
    "statistics of pairs": lambda text: print_statistics(
        statistics(text), replace(TOXICITY, name=text or "x", adjective=text)
    ),
    "scores": lambda text: print_scores(scores_of(text)),
    "log": logged,
}
"""Ways out to a terminal or a log."""


@everything
@pytest.mark.parametrize("exit", TERMINAL)
def test_a_terminal_gets_no_character_that_acts(exit, what):
    text = said(lambda: TERMINAL[exit](HOSTILE[what]))
    assert text.strip()
    assert_inert(text)
    text.encode("utf-8")


@everything
def test_a_line_stays_one_line(what):
    for show in (terminal.say, terminal.complain):
        assert said(lambda show=show: show(HOSTILE[what])).count("\n") == 1
    assert len(one_line(HOSTILE[what])) <= MOST


@everything
def test_a_table_keeps_its_lines(what):
    """As many as with a harmless text, where nothing is too wide for a line."""
    if what != "long":
        lines = [said(lambda text=text: print_facts([(text, "1")])).count("\n") for text in ("x", HOSTILE[what])]
        breaks = HOSTILE[what].count("\n")  # a cell breaks where its text does
        assert lines[1] == lines[0] + breaks


@everything
def test_bars_hold_no_sequence_but_their_own(what, monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(
        console, "Console", lambda **_: Console(file=stream, force_terminal=True, width=200, color_system=None)
    )
    text = HOSTILE[what]
    with Bars(quiet=False) as bars:
        bars.stage(text)
        bars.progress(1, 4)
        bars.note(text)
        bars.reused(text)
    assert_inert(drawn(stream.getvalue()))
    if what == "clear":
        assert "␛[2J␛[H␛[3J" in stream.getvalue()


def test_the_middle_of_a_long_line_goes_and_its_mend_stays():
    line = one_line(f"{'x' * 9000}; choose another --out")
    assert len(line) == MOST
    assert line.endswith("x; choose another --out")
    assert " … " in line


# JSON and files


@everything
def test_json_keeps_the_value_and_acts_on_no_terminal(what, tmp_path):
    value = {HOSTILE[what]: [HOSTILE[what], {"a": HOSTILE[what]}]}
    for indent in (None, 2):
        text = json_text(value, indent=indent)
        assert json.loads(text) == value
        assert_inert(text)
    write_json(tmp_path / "x.json", value)
    assert read_object(tmp_path / "x.json") == value
    write_text(tmp_path / "x.txt", HOSTILE[what])


# Cards


def card_of(text: str, lm) -> str:
    edit = Edit.of(Gains(random_gains(lm)), about={text: text, "list": [text, 1], "negative_control": text})
    scores = replace(whole_page(further=(text,)).scores, protocol=text)
    return model_card(replace(lm, name=text), edit, scores, figure="tradeoff.png")


def adapters_of(text: str, lm) -> str:
    return adapter_card(text, Edit.of(Gains(random_gains(lm))), [GAINS])


def tuned_of(text: str, _lm) -> str:
    record = replace(TRAINING, model=text)
    settings = record.settings.model_copy(update={"teacher": text})
    return tuned_card(replace(record, settings=settings, pairs=replace(record.pairs, format=text)))


CARDS = {"checkpoint": card_of, "adapters": adapters_of, "tuned": tuned_of}
PLAIN = "a plain name"


def shape(card: str) -> tuple[dict[str, Any], list[str]]:
    """What a reader makes of a card: the facts at its head, and the kinds of all that is in its body."""
    _, head, body = re.split(r"(?m)^---$", card, maxsplit=2)
    reader = MarkdownIt("gfm-like", {"html": True, "linkify": False}).enable(["table", "strikethrough"])
    kinds: list[str] = []
    for token in reader.parse(body):
        kinds += [token.type, *(child.type for child in token.children or () if not child.type.startswith("text"))]
    return yaml.safe_load(head), kinds


def nameless(head: dict[str, Any]) -> dict[str, Any]:
    """The facts, without the names that stand in some of them."""
    return {**head, "base_model": "", "model-index": without_texts(head.get("model-index"))}


def without_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_texts(one) for name, one in value.items()}
    if isinstance(value, list):
        return [without_texts(one) for one in value]
    return "" if isinstance(value, str) else value


@everything
@pytest.mark.parametrize("kind", CARDS)
def test_a_card_is_the_same_page_whatever_a_name_holds(kind, what, llama):
    card = CARDS[kind](HOSTILE[what], llama)
    assert_inert(card)
    head, body = shape(card)
    plain_head, plain_body = shape(CARDS[kind](PLAIN, llama))
    assert head.keys() == plain_head.keys() <= {"library_name", "base_model", "tags", "pipeline_tag", "model-index"}
    assert nameless(head) == nameless(plain_head)
    assert body == plain_body
    outside_code = re.sub(r"(`+)[^`].*?[^`]\1(?!`)", "", card.split("\n---\n", 1)[1])
    assert not re.search(r"https?:/|www\.", outside_code), "a reader would make a link of it"


@everything
def test_markdown_shows_the_text_and_nothing_but_the_text(what):
    wanted = one_line(HOSTILE[what])
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    for written, kinds in (
        (markdown(HOSTILE[what]), {"text", "text_special"}),
        (code(HOSTILE[what]), {"text", "code_inline"}),
    ):
        inline = next(token for token in reader.parse(f"a {written} z") if token.type == "inline")
        assert {child.type for child in inline.children or ()} <= kinds
        assert "".join(child.content for child in inline.children or ()) == f"a {wanted} z"


@everything
def test_the_head_of_a_card_is_yaml_that_says_what_it_should(what):
    lines = front_matter({"base_model": HOSTILE[what], "tags": ["a", HOSTILE[what]]})
    assert (lines[0], lines[-1], len(lines)) == ("---", "---", 4)
    shown = one_line(HOSTILE[what])
    assert yaml.safe_load("\n".join(lines[1:-1])) == {"base_model": shown, "tags": ["a", shown]}


# Tables, figures, pages


@everything
@pytest.mark.parametrize("form", ["markdown", "latex", "csv"])
def test_a_table_in_a_file_is_inert(form, what):
    assert_inert(getattr(table(HOSTILE[what]), form)(raw=True))


@everything
def test_a_figure_is_whole_and_draws_the_text(what, tmp_path):
    text = HOSTILE[what][:200]
    figure = interval_dots([Row(text, "edit", estimate(0.5, 0.1, 20))], axis=text)
    svg = str(figure_svg(figure, name="f", description=text))
    assert_inert(svg)
    found = {element.tag.rpartition("}")[2] for element in ElementTree.fromstring(svg).iter()}
    assert found <= {"svg", "g", "path", "text", "defs", "use", "rect", "clipPath", "tspan"}
    for suffix in ("svg", "png"):
        save_figure(figure, tmp_path / f"f.{suffix}")
    assert_inert((tmp_path / "f.svg").read_text("utf-8"))
    ElementTree.parse(tmp_path / "f.svg")


def test_a_legend_is_drawn_inert(tmp_path):
    """Conditions have names from the command line, concepts from a file."""
    for what in ("colour", "surrogates", "bidi"):
        figure = front_figure(renamed(HOSTILE[what]))
        assert figure is not None
        save_figure(figure, tmp_path / "front.svg")
        assert_inert((tmp_path / "front.svg").read_text("utf-8"))


def renamed(text: str):
    """Scores of a condition of this name."""
    scores = whole_page().scores
    changed = {
        field: {text if name == "edit" else name: value for name, value in getattr(scores, field).items()}
        for field in ("conditions", "against_none")
    }
    return replace(scores, concept=text, **changed)


def page_of(text: str) -> tuple[str, list[str]]:
    """A page with the text in all its places, and its elements."""
    base = page()
    scores = replace(base.scores, model=text, concept=text)
    html = render_page(replace(base, scores=scores, model=text, notes=(text,), settings=[(text, text)], edit=text))
    marks = [(tag, attributes.get("class")) for tag, attributes in Parsed(html).elements]
    return html, [tag for tag, kind in marks if kind not in {"c", "w"}]


@pytest.fixture(scope="module")
def plain_elements() -> list[str]:
    return page_of(PLAIN)[1]


@everything
def test_a_page_has_the_same_elements_whatever_a_name_holds(what, plain_elements):
    html, elements = page_of(HOSTILE[what])
    assert_inert(re.sub("[\u200c\u200d]", "", html))  # joiners: parts of emoji and of several scripts, which pages keep
    if what != "long":  # a label is cut, and a caption may hold more lines
        assert elements == plain_elements
