"""What people see: bars where there is a terminal, tables that fit 80 columns."""

import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from dposcope import terminal
from dposcope.cli import console
from dposcope.cli.console import Bars, Lines, Pace, print_scores, print_scores_as_json, reporting
from dposcope.cli.shown.ahead import Ahead
from dposcope.evaluation.conditions.measure import Outcome
from dposcope.evaluation.conditions.scores import Comparison, Scores, summarise
from dposcope.evaluation.sampled.phrases import Phrase
from dposcope.evaluation.statistics import Difference
from helpers.pages import STRONG


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
def printed(monkeypatch):
    """`printed(scores)`: what stands on a terminal of 80 columns."""
    stream = io.StringIO()
    monkeypatch.setattr(terminal, "out", Console(file=stream, width=80, highlight=False))

    def show(of: Scores) -> str:
        print_scores(of)
        return stream.getvalue()

    return show


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


def test_every_mean_and_interval_is_whole(printed):
    of = scores("edit", "control")
    text = printed(of)
    words = text.split()
    for measures in of.conditions.values():
        for name, estimate in measures.items():
            if name == "empty":
                continue
            mean, interval = str(estimate).split(" ", 1)
            assert mean in words
            assert interval.split()[0] in text
    assert "1 ×" in text
    for comparison in of.against_none.values():
        assert str(comparison.toxicity_ratio).split(" (")[0] in text


def test_many_conditions_stand_three_and_none_to_a_table(printed):
    text = printed(scores(*(f"c{n}" for n in range(7))))
    assert text.count("org/model") == 3
    heads = [line.split() for line in text.splitlines() if "none" in line and "share" not in line]
    assert heads == [["none", "c0", "c1", "c2"], ["none", "c3", "c4", "c5"], ["none", "c6"]]


def test_without_a_ratio_there_is_a_dash(printed):
    of = scores("edit")
    bare = replace(of, against_none={"edit": Comparison(of.against_none["edit"].differences, None)})
    (row,) = [line for line in printed(bare).splitlines() if "1 ×" in line]
    assert row.split() == ["toxicity,", "1", "×", "–"]


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
