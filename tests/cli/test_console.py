"""What people see: bars where there is a terminal, tables that fit 80 columns."""

import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from rich.progress import Progress

from dposcope import terminal
from dposcope.cli import console
from dposcope.cli.console import (
    Bars,
    Lines,
    Pace,
    print_facts,
    print_scores,
    print_scores_as_json,
    print_table,
    reporting,
)
from dposcope.cli.shown.ahead import Ahead
from dposcope.data.masking import mask_offensive
from dposcope.evaluation.conditions.outcome import Outcome
from dposcope.evaluation.conditions.scores import Comparison, Scores, summarise
from dposcope.evaluation.numbers import COUNT, MEAN
from dposcope.evaluation.sampled.drawn import FLUENCY, MAXIMUM, PROBABILITY, SAMPLED, measure_name
from dposcope.evaluation.sampled.phrases import Phrase
from dposcope.evaluation.statistics.intervals import Difference
from dposcope.jobs.measuring.measure import scores_table
from dposcope.report.sampled import sampled_table
from dposcope.report.table import Column, Table
from helpers.outcomes import difference
from helpers.pages import STRONG, estimate, whole_page


def outcome(seed: int, low: float = 0.2) -> Outcome:
    draw = np.random.default_rng(seed)
    return Outcome.from_json(
        {
            "continuations": ["a b c"] * 20,
            "per_prompt": {
                "toxicity": (draw.random(20) * low + low).tolist(),
                **{name: draw.random(20).tolist() for name in ("judge", "repetition", "empty")},
            },
            "f1": draw.random(5).tolist(),
            "window_nll": (draw.random(3) * 100).tolist(),
            "window_tokens": [100, 100, 100],
        }
    )


def scores(*names: str, low: float = 0.2) -> Scores:
    return summarise(
        {name: outcome(place, low) for place, name in enumerate(("none", *names))}, protocol="strict", model="org/model"
    )


@pytest.fixture
def on_terminal(monkeypatch):
    """`on_terminal(width, show)`: what `show()` leaves on a terminal of so many columns."""

    def run(width: int, show: Callable[[], object]) -> str:
        stream = io.StringIO()
        monkeypatch.setattr(terminal, "out", Console(file=stream, width=width, highlight=False))
        show()
        return stream.getvalue()

    return run


@pytest.fixture
def printed(on_terminal):
    """`printed(scores)`: the scores on a terminal of 80 columns."""
    return lambda of, width=80: on_terminal(width, lambda: print_scores(of))


@pytest.mark.parametrize("names", [(), ("edit",), ("edit", "control"), tuple(f"condition {n}" for n in range(8))])
def test_tables_fit_a_terminal(printed, names):
    text = printed(scores(*names))
    assert max(map(len, text.splitlines())) <= 80
    assert "org/model, strict protocol" in text
    for name in ("none", *names):
        assert name in text


def test_another_concept_has_its_own_name(printed):
    text = printed(replace(scores("edit"), concept="[b]rain talk[/b]"))
    assert "[b]rain talk[/b] " in text
    assert "toxic" not in text


def cells_of(table) -> dict[tuple[str, str], str]:
    """Condition and heading → value with its marks and its interval, as the page has them; phrases masked."""
    return {
        (row[0].value, label): mask_offensive(f"{one.value}{one.mark}{f' ({one.interval})' if one.interval else ''}")
        for row in table.cells
        for label, one in zip(table.head[1:], row[1:], strict=True)
    }


def sampled() -> Scores:
    """With every scorer and cost, a scorer that does not share a difference, and samples of each condition."""
    of = whole_page().scores
    measures = [measure_name(one, by) for one in (MAXIMUM, PROBABILITY, SAMPLED) for by in of.scorers]
    samples = dict.fromkeys(measures, 0.4) | {FLUENCY: 3.4}
    return replace(
        of,
        distinct_sampled=dict.fromkeys(("none", "edit", "control"), (0.9, 0.8, 0.7)),
        conditions={
            name: values if name == "ideal" else values | {key: estimate(by, 0.05, 90) for key, by in samples.items()}
            for name, values in of.conditions.items()
        },
        against_none={
            name: replace(one, differences=one.differences | dict.fromkeys(samples, difference(-0.2, -0.3, -0.1, 90)))
            for name, one in of.against_none.items()
        },
    )


@pytest.mark.parametrize("width", [30, 40, 400])
def test_the_terminal_says_what_the_page_says(printed, width):
    """Each cell of the tables of `scores.md` under its condition, with the marks, and their notes."""
    of = sampled()
    tables = [scores_table(of), sampled_table(of)]
    text = printed(of, width)
    told = " ".join(text.split())
    assert "0.131*‡" in told
    assert "0.400* (0.350–0.450)" in told or width == 400
    assert "*: differs from the plain model: paired" in told
    for table in tables:
        assert all(" ".join(note.split()) in told for note in table.notes)
        for (name, label), words in cells_of(table).items():
            if width < 46:  # paragraphs
                part = told.partition(f" {name} toxicity: ")[2]
                assert words == "–" or f"{label}: {words}" in f"toxicity: {part}", (name, label)
            else:
                row = next(line for line in text.splitlines() if line.startswith(f"  {label}   "))
                assert words.partition(" (")[0] in row


@pytest.mark.parametrize("width", [12, 20, 30, 39, 45, 46, 52, 59, 60, 66, 80, 97, 140])
def test_no_number_is_cut_however_narrow_the_terminal(printed, width):
    """Every word of every cell with a digit stands whole, as often as the cell does."""
    of = sampled()
    text = printed(of, width)
    words = Counter(text.split())
    for wanted in Counter(
        word
        for table in (scores_table(of), sampled_table(of))
        for told in cells_of(table).values()
        for word in told.split()
        if any(letter.isdigit() for letter in word)
    ).items():
        assert words[wanted[0]] >= wanted[1], wanted
    if width >= 20:
        assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [12, 25, 40, 60, 80])
def test_tables_and_facts_keep_their_numbers_too(on_terminal, width):
    frame = pl.DataFrame({"stage": ["search for the strength"] * 2, "read": [1_234_567, 71_680], "mean": [0.25, 0.5]})
    columns = (Column("stage", "stage"), Column("read", "tokens read", COUNT), Column("mean", "mean score", MEAN))
    shown = Table("t", "A title of some words.", frame, columns, ("In all 12,345 of 98,765,432 bytes.",))
    text = on_terminal(width, lambda: print_table(shown))
    assert {"1,234,567", "71,680", "0.250", "0.500", "12,345", "98,765,432"} <= set(text.split())
    facts = on_terminal(width, lambda: print_facts([("dispreferred over preferred", "0.48 × (0.410–0.560)")]))
    assert {"0.48", "(0.410–0.560)"} <= set(facts.split())
    assert "dispreferred" in facts.split()


def test_few_items_are_told_where_there_is_no_interval(printed):
    of = whole_page().scores
    rise = replace(of.against_none["edit"].differences["harmless_logppl"], low=-math.inf, high=math.inf, n=1)
    edit = replace(of.against_none["edit"], differences=of.against_none["edit"].differences | {"harmless_logppl": rise})
    told = " ".join(printed(replace(of, against_none=of.against_none | {"edit": edit}), 40).split())
    assert "harmless log-PPL, paired rise: +0.35 (n = 1, no interval)" in told


def test_many_conditions_stand_three_and_none_to_a_table(printed):
    text = printed(scores(*(f"c{n}" for n in range(7))))
    assert text.count("org/model") == 3
    heads = [head.split() for head, rule in pairwise(text.splitlines()) if rule.startswith(" ─")]
    assert heads == [["none", "c0", "c1", "c2"], ["none", "c3", "c4", "c5"], ["none", "c6"]]


def test_without_a_ratio_there_is_a_dash(printed):
    of = scores("edit")
    bare = replace(of, against_none={"edit": Comparison(of.against_none["edit"].differences, None)})
    (row,) = [part.split() for part in re.split(r"\n\s*\n", printed(bare)) if "share" in part]
    assert sorted(row) == sorted(["toxicity,", "share", "of", "the", "plain", "model's", "–", "–"])


def test_a_long_name_is_folded_not_cut(printed):
    name = "assign:alpha=0.01,beta=0.55,ranking=reference"
    letters = re.sub(r"\s", "", printed(scores(name)).split("─")[0])
    assert name in letters.replace("none", "")


def test_names_are_no_markup(printed):
    assert "[red]x" in printed(scores("[red]x"))


# Bars


@pytest.fixture
def drawn(monkeypatch):
    """A stream that passes for a terminal."""
    stream = io.StringIO()
    monkeypatch.setattr(
        console, "Console", lambda **_options: Console(file=stream, force_terminal=True, width=120, _environ={})
    )
    return stream


def work(bars: Bars | Lines) -> None:
    with bars:
        bars.progress(1, 2)  # before any stage: nothing to move
        bars.stage("Reading")
        bars.progress(1, 4)
        bars.progress(9, 4)
        bars.reused("Means [x]")
        bars.stage("Measuring")


def test_phrases_of_texts_have_stars_in_json_too(capsys):
    """Files keep them as they are."""
    rude = Phrase(f"you {STRONG}", 0.5, 0.0, Difference(0.5, 0.4, 0.6, 20, 0.001))
    told = replace(scores("edit"), phrases={"edit": (rude,)})
    print_scores_as_json(told, raw=False)
    shown = capsys.readouterr().out
    assert STRONG not in shown
    assert "*" in json.loads(shown)["phrases"]["edit"][0]["words"]
    assert json.loads(shown) | {"phrases": None} == told.to_json() | {"phrases": None}
    print_scores_as_json(told, raw=True)
    assert json.loads(capsys.readouterr().out) == told.to_json()


def test_bars_name_their_stages(drawn):
    work(Bars(quiet=False))
    text = drawn.getvalue()
    for title in ("Reading", "Measuring"):
        assert title in text
    assert "9/4" not in text  # never more than full


def test_what_is_over_is_one_line(drawn):
    clock = [0.0]
    with Bars(quiet=False, time=lambda: clock[0]) as bars:
        for second, title in enumerate(("Reading", "Measuring", "Folding")):
            clock[0] = 70.0 * second
            bars.stage(title)
            bars.reused("Means [x]")
        bars.stage("Writing")
        clock[0] = 200.0
    last = drawn.getvalue().rpartition("Writing")[2]
    assert "4 stages done in 3:20, 3 done before" in last
    for title in ("Reading", "Measuring", "Folding", "Means"):
        assert title not in last


def test_the_time_that_stages_like_those_before_still_take(drawn):
    clock = [0.0]
    with Bars(quiet=False, time=lambda: clock[0]) as bars:
        bars.stage("Loading")
        clock[0] = 500.0
        for ahead in (5, 4):
            bars.ahead(ahead)
            bars.stage("Measuring")
            clock[0] += 40.0 * (6 - ahead)
        bars.stage("Direction")  # not one of them
        clock[0] += 1_000
        bars.ahead(3)
        bars.reused("Measuring")
        bars.ahead(2)
        bars.stage("Last but one")
        clock[0] += 60.0
    assert "5 stages done in 28:00, 1 done before, 1 more in about 1:00" in drawn.getvalue()


def test_stages_of_another_length_begin_anew():
    clock = [0.0]
    ahead = Ahead(lambda: clock[0])

    def one(stages: int, seconds: float) -> float | None:
        ahead.expect(stages)
        ahead.begin()
        clock[0] += seconds
        ahead.end()
        return ahead.seconds

    assert [one(2, 10.0), one(1, 30.0), one(4, 7.0), one(3, 9.0)] == [10.0, None, 21.0, 16.0]


def test_quiet_draws_nothing(drawn):
    work(Bars(quiet=True))
    assert drawn.getvalue() == ""


def test_quiet_keeps_what_a_person_should_know(capsys):
    """--quiet promises no progress bars, and a warning is none."""
    with reporting(quiet=True) as reporter:
        reporter.stage("Reading")
        reporter.step("2 of 3: reading; about 4 hours left in all")
        reporter.note("the edit was made for\nother weights.")
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("note: the edit was made for")
    assert line.endswith("other weights.")


def test_without_a_terminal_nothing_is_drawn(capsys):
    work(Bars(quiet=False))
    told = capsys.readouterr()
    assert told.err == told.out == ""


# Lines, for logs


@pytest.fixture
def log(capsys):
    """`log(*events)`: the lines of a stage in a log, clock times cut off; an event is (second, method, arguments)."""

    def run(*events: tuple[float, str, tuple[object, ...]], fails: bool = False) -> list[str]:
        clock = [0.0]
        lines = Lines(time=lambda: clock[0])
        try:
            with lines:
                for second, method, given in events:
                    clock[0] = second
                    if method == "end":
                        break
                    getattr(lines, method)(*given)
                if fails:
                    raise RuntimeError("boom")
        except RuntimeError:
            assert fails
        told = capsys.readouterr()
        assert told.out == ""
        assert all(re.match(r"\d\d:\d\d:\d\d  ", line) for line in told.err.splitlines())
        return [line[10:] for line in told.err.splitlines()]

    return run


def test_what_is_quick_leaves_no_line(log):
    with reporting(quiet=False) as reporter:
        reporter.stage("Reading")
        reporter.progress(1, 2)
    assert (
        log((0, "stage", ("Reading",)), (30, "progress", (1, 2)), (59.9, "stage", ("Measuring",)), (99, "end", ()))
        == []
    )


def test_what_takes_long_is_told_now_and_then(log):
    told = log(
        (0, "stage", ("Measuring: \n[x]",)),
        (10, "progress", (100, 400)),  # a resumed run begins here
        (70, "progress", (130, 400)),
        (200, "progress", (200, 400)),
        (370, "progress", (280, 400)),
        (725, "reused", ("Means",)),
        (725, "progress", (1, 2)),
        (2_000, "end", ()),
    )
    assert told == [
        "Measuring: [x]: 130 of 400, 9:00 left",
        "Measuring: [x]: 280 of 400, 4:00 left",
        "Measuring: [x]: done in 12:05",
    ]


def test_a_long_stage_ends_with_the_time_that_those_like_it_take(log):
    told = log(
        (0, "ahead", (4,)),
        (0, "stage", ("Measuring: a",)),
        (100, "ahead", (3,)),
        (100, "stage", ("Measuring: b",)),
        (160, "end", ()),
    )
    assert told == [
        "Measuring: a: done in 1:40, 3 more in about 5:00",
        "Measuring: b: done in 1:00, 2 more in about 2:40",
    ]


def test_of_unknown_pace_no_time_left_is_told(log):
    told = log((0, "stage", ("Reading",)), (80, "progress", (3, 4)), (500, "progress", (4, 4)), (4_000, "end", ()))
    assert told == ["Reading: 3 of 4", "Reading: 4 of 4", "Reading: done in 1:06:40"]


def test_what_failed_is_not_told_as_done(log):
    assert log((0, "stage", ("Reading",)), (100, "progress", (3, 4)), fails=True) == ["Reading: 3 of 4"]


def test_lines_are_for_streams_that_are_no_terminal(monkeypatch):
    begun: list[object] = []
    for kind in (Bars, Lines):
        monkeypatch.setattr(kind, "stage", lambda self, _title: begun.append(type(self)))

    def begin(*, quiet: bool) -> None:
        with reporting(quiet=quiet) as reporter:
            reporter.stage("Reading")

    begin(quiet=False)
    begin(quiet=True)
    monkeypatch.setattr(console.sys.stderr, "isatty", lambda: True)
    begin(quiet=False)
    assert begun == [Lines, Bars, Bars]


def test_an_error_stops_the_bars_and_passes(drawn):
    def fail() -> None:
        with Bars(quiet=False) as bars:
            bars.stage("Reading")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail()
    text = drawn.getvalue()
    assert text.count("Reading") >= 2  # its bar stays
    assert "done" not in text  # what failed is not shown as done


@pytest.mark.parametrize(
    ("seconds", "before", "done", "total", "shown"),
    [
        (10, 20, 60, 100, "4.0/s, 0:10 left"),
        (100, 5, 30, 1005, "4.0 s each, 1:05:00 left"),
        (10, 20, 100, 100, ""),  # over
        (10, 20, 60, None, ""),  # of unknown length
        (10, 0, 0, 100, ""),  # not begun
    ],
)
def test_the_pace_of_a_stage_and_the_time_left(seconds, before, done, total, shown):
    """What a resumed run finds done at its first step counts for no speed."""
    clock = [0.0]
    bars = Progress(get_time=lambda: clock[0], disable=True, speed_estimate_period=1000)
    task = bars.add_task("Stage", total=total)
    bars.update(task, completed=before)
    clock[0] = seconds
    bars.update(task, completed=done)
    assert Pace().render(bars.tasks[0]).plain == shown
