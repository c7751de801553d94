"""Explanations beside one another: tables and page from files alone."""

import json
from dataclasses import replace

import polars as pl
import pytest

from dposcope.artefacts import write_json
from dposcope.errors import DposcopeError
from dposcope.evaluation.conditions.scores import Comparison, Scores
from dposcope.evaluation.numbers import MEAN, Format
from dposcope.evaluation.sampled.phrases import Phrase
from dposcope.evaluation.statistics.intervals import Estimate, Ratio
from dposcope.jobs.explain.claims.claim import Claim, claims_table
from dposcope.jobs.explain.patches import FOUR_GROUPS
from dposcope.jobs.ownership import RUN, marked
from dposcope.jobs.reproduce.finished import FinishedRun, Plan, find_runs, title_of
from dposcope.jobs.reproduce.overview import findings_lines, overview_page
from dposcope.jobs.reproduce.overview_tables import claims_over_runs, findings_table, joint_tables, overview_tables
from dposcope.report.costs import UNSHARED
from dposcope.report.table import Column, Table
from helpers.axe import small_texts, violations
from helpers.chromium import chromium
from helpers.jobs import command
from helpers.outcomes import difference

NUMBERS = ("measured", "value", "low", "high")
ABOUT = {"command": "explain", "settings": {}, "free": {}}
"""A `run.json`, but for its versions."""
MEASURES = ("toxicity", "judge", "logppl", "f1", "repetition")


def finished(
    folder, *, protocol="strict", after=0.1, claims=(), shares=None, base="org/model", concept="toxicity"
) -> FinishedRun:
    """A run with made-up numbers, read back from its folder."""
    estimate = {name: Estimate(0.3, 0.2, 0.4, 10) for name in MEASURES}
    tuned = {name: Estimate(after, after / 2, after * 2, 10) for name in MEASURES}
    changes = {name: difference(after - 0.3, -0.3, -0.1, 10) for name in MEASURES}
    scores = Scores(
        protocol,
        base,
        {"none": estimate, "tuned": tuned},
        {"tuned": Comparison(changes, Ratio(after / 0.3, 0.2, 0.5, 10))},
        {"none": 0.5, "tuned": 0.5},
        concept=concept,
    )
    table = Table(
        "table-02-interventions",
        f"Interventions <b>{protocol}</b>.",
        pl.DataFrame({"row": ["none"], "word": ["<script>"]} | {"mean": [0.3], "mean_low": [0.2], "mean_high": [0.4]}),
        (Column("row", "row"), Column.ranged("mean", "value", MEAN), Column("word", "value")),
        ("A note.",),
        number=2,
    )
    facts = {
        "kind": "dposcope explain",
        "base": base,
        "tuned": "",
        "protocol": protocol,
        "settings": {},
        "reducing": 0.512,
        "share_of_dpo": shares or {},
        "claims": [dict(zip(("section", "claim", "here", "verdict", *NUMBERS), one, strict=True)) for one in claims],
    }
    write_json(folder / "explain.json", facts)
    write_json(folder / "scores.json", scores.to_json())
    write_json(folder / "tables.json", [table.to_json()])
    return FinishedRun.read(folder, study=folder.parent.name)


CLAIMS = [
    [
        ("4", "Few", "0.1 %", "held", "share", 0.001, None, None),
        ("6", "Keeps", "+0.1", "not held", "F1", 0.1, 0.0, 0.2),
    ],
    [
        ("4", "Few", "2 %", "not held", "share", 0.02, None, None),
        ("6", "Keeps", "–", "open", "F1", None, None, None),
        ("K", "Rises", "x", "held", "score", None, None, None),
    ],
]


@pytest.fixture
def runs(tmp_path) -> list[FinishedRun]:
    share = {FOUR_GROUPS: {"share": 0.9, "low": 0.8, "high": 1.0, "n": 10}}
    return [
        finished(tmp_path / "m/a/explain-strict", claims=CLAIMS[0], shares=share),
        finished(tmp_path / "m/b/explain-reference", protocol="reference", after=0.2, claims=CLAIMS[1]),
    ]


def test_each_run_is_a_line(runs):
    table = findings_table(runs)
    assert [row[:3] for row in table.rows] == [("model", "a", "strict"), ("model", "b", "reference")]
    assert table.rows[0][3:6] == ("0.300 (0.200–0.400)", "0.100 (0.050–0.200)", "0.33 × (0.20–0.50)")
    assert dict(zip(table.head, table.rows[0], strict=True))["neurons ↓"] == "51.2 %"
    frame = table.to_polars()
    assert frame["toxicity_after"].to_list() == [0.1, 0.2]
    assert frame["toxicity_ratio_high"].to_list() == [0.5, 0.5]


def with_every_cost(run: FinishedRun) -> FinishedRun:
    """With a third scorer that shows no certain difference, where the judge shows one; and with all costs."""
    scores, made = run.scores, run.scores.against_none["tuned"]
    third = {"none": Estimate(0.4, 0.3, 0.5, 10), "tuned": Estimate(0.3, 0.2, 0.4, 10)}
    more = {"third": difference(-0.1, -0.3, 0.1, 10), "harmless_logppl": difference(0.25, 0.2, 0.3, 9)}
    against = Comparison(made.differences | more, made.toxicity_ratio, Ratio(0.8, 0.7, 0.9, 10))
    whole = replace(
        scores,
        conditions={name: values | {"third": third[name]} for name, values in scores.conditions.items()},
        against_none={"tuned": against},
        further=("third",),
        distinct_kept={"none": 1.0, "tuned": 0.72},
        phrases={"tuned": (Phrase("i was", 0.2, 0.1, difference(0.1, 0.0, 0.2, 10)),)},
    )
    return replace(run, scores=whole)


def test_further_scorers_and_costs_of_tuning_stand_in_the_line_of_a_run_that_has_them(runs):
    table = findings_table([with_every_cost(runs[0]), runs[1]])
    head = list(table.head)
    costs = ["log-PPL", "F1", "harmless log-PPL, paired rise"]
    assert head[5:12] == ["× before", "by the judge", "by third", *costs, "neurons ↓"]
    first, second = (dict(zip(head, row, strict=True)) for row in table.rows)
    assert first["× before"] == "0.33 × (0.20–0.50)‡"
    assert (first["by the judge"], first["by third"]) == ("0.33 ×" + UNSHARED, "0.75 ×")
    assert first["harmless log-PPL, paired rise"] == "+0.25 (+0.20 to +0.30)"
    assert (second["by the judge"], second["by third"]) == ("0.67 ×", "–")
    assert second["harmless log-PPL, paired rise"] == "–"
    frame = table.to_polars()
    assert frame["third_ratio"].to_list() == [pytest.approx(0.75), None]
    assert frame["harmless_rise"].to_list() == [0.25, None]
    assert frame["relevance_kept"].to_list() == [0.8, None]
    assert frame["distinct_kept"].to_list() == [0.72, None]
    assert "phrase" not in frame.columns
    assert table.notes[1:] == (
        "By the judge, by third: × before of means.",
        "‡: another scorer does not share this difference.",
        "Harmless log-PPL: nats per token of the plain model's own harmless samples (the ideal).",
    )
    plain = findings_table([replace(run, scores=_without_judge(run.scores)) for run in runs])
    assert len(plain.head) == 12
    assert len(plain.notes) == 1


def test_findings_fit_a_laptop(runs, tmp_path):
    whole = [with_every_cost(run) for run in runs]
    page = tmp_path / "report.html"
    page.write_text(overview_page(whole, overview_tables(whole), title="t", root=tmp_path), encoding="utf-8")
    box = "document.querySelector('[aria-labelledby=section-1-table-1]')"
    with chromium() as browser:
        browser.open(page, width=1280)
        assert browser.run(f"{box}.scrollWidth") == browser.run(f"{box}.clientWidth") == 1200


def test_the_page_fits_can_be_read_and_shows_each_verdict(runs, tmp_path):
    path = tmp_path / "report.html"
    path.write_text(overview_page(runs, overview_tables(runs), title="T", root=tmp_path), encoding="utf-8")
    with chromium() as browser:
        for width, dark in ((1280, False), (390, True)):
            browser.open(path, width=width, dark=dark)
            assert browser.run("document.documentElement.scrollWidth") == width
            assert small_texts(browser) == []
            assert violations(browser) == []
        kinds = browser.run("[...document.querySelectorAll('.matrix td')].map((one) => one.textContent.trim())")
        assert kinds == ["held", "not held", "not held", "open", "– not testable", "held"]
        assert browser.console == []
        assert browser.requests == [path.as_uri()] * 2


def _without_judge(scores: Scores) -> Scores:
    kept = {
        name: {key: value for key, value in values.items() if key != "judge"}
        for name, values in scores.conditions.items()
    }
    return replace(scores, conditions=kept)


def test_the_concept_is_named(runs, tmp_path):
    assert findings_table(runs).head[3] == "toxicity before"
    other = finished(tmp_path / "m/c/explain-strict", concept="food talk")
    assert findings_table([other]).head[3] == "food talk before"
    both = findings_table([runs[0], other])
    assert claims_over_runs([runs[0], other]).notes[-1].endswith("read food talk instead.")
    assert len(claims_over_runs(runs).notes) == 1
    assert both.head[3] == "concept before"
    assert [row[1] for row in both.rows] == ["a, toxicity", "c, food talk"]
    assert both.to_polars()["concept"].to_list() == ["toxicity", "food talk"]


def test_claims_stand_side_by_side(runs):
    table = claims_over_runs(runs)
    assert table.head[2:] == (
        "the paper's numbers",
        "model · a · strict",
        "model · b · reference",
        "counts as held if",
    )
    assert table.rows == (
        ("4", "Few", "–", "held: 0.1 %", "not held: 2 %", "–"),
        ("6", "Keeps", "–", "not held: +0.1", "open: –", "–"),
        ("K", "Rises", "–", "not testable", "held: x", "–"),
    )
    verdicts = table.to_polars().filter(claim="Rises").select("study", "verdict", "here").rows()
    assert verdicts == [("a", "not testable", None), ("b", "held", "x")]


def test_claims_say_what_the_paper_has_and_when_they_hold(runs):
    """As the run's own table has it; a run that lacks the claim does not hide it."""
    claim = Claim("6", "Keeps", "0.9", "+0.1", "F1", 0.1, None, None, "not held", "above 0")
    own = Table.from_json(claims_table("model", "strict", [claim]).to_json())
    runs[1].tables.append(own)
    table = claims_over_runs(runs)
    assert [(row[1], row[2], row[-1]) for row in table.rows] == [
        ("Few", "–", "–"),
        ("Keeps", "0.9", "above 0"),
        ("Rises", "–", "–"),
    ]
    assert table.to_polars().filter(claim="Keeps").select("paper", "rule").unique().rows() == [("0.9", "above 0")]


def test_a_sentence_for_each_run(runs):
    assert findings_lines(runs)[0] == (
        "model · a · strict: toxicity 0.300 (0.200–0.400) → 0.100 (0.050–0.200), log-PPL −0.200 (−0.300 to −0.100); "
        "claims: 1 held, 1 not held, 0 open"
    )
    assert findings_lines(runs)[1].endswith("claims: 1 held, 1 not held, 1 open")


def test_claims_over_runs_carry_their_numbers(runs):
    frame = claims_over_runs(runs).to_polars()
    assert frame.select("claim", "study", "measured", "value", "low", "high").rows() == [
        ("Few", "a", "share", 0.001, None, None),
        ("Few", "b", "share", 0.02, None, None),
        ("Keeps", "a", "F1", 0.1, 0.0, 0.2),
        ("Keeps", "b", "F1", None, None, None),
        ("Rises", "a", None, None, None, None),
        ("Rises", "b", "score", None, None, None),
    ]
    without = claims_over_runs([finished(runs[0].folder.parent / "empty")]).to_polars()
    assert without.is_empty()
    assert without.schema == frame.schema


def test_short_tables_stand_below_one_another(runs):
    """Lines of every run with its name, whatever columns only one of them has."""
    x = Column("x", "x", Format("fixed", 1))
    title, first = "What changed of org/model.", pl.DataFrame({"model": ["m"], "x": [1.5]})
    second, fewer = pl.DataFrame({"x": [2], "y": ["z"]}), pl.DataFrame({"x": [3], "y": ["w"], "shown": ["only"]})
    tables = [
        Table("change", title, first, (Column("model", "model"), x), ("A.",)),
        Table("change", title, second, (x, Column("y", "y")), ("A.", "B."), view=fewer),
    ]
    assert joint_tables([replace(run, tables=[]) for run in runs]) == []
    assert joint_tables([replace(runs[0], tables=tables[:1]), replace(runs[1], tables=[])]) == [], (
        "one is no comparison"
    )
    both = [replace(run, tables=[table], model="org/model") for run, table in zip(runs, tables, strict=True)]
    (joint,) = joint_tables(both)
    assert (joint.name, joint.notes) == ("change-over-runs", ("A.", "B."))
    assert joint.title == "How much tuning changed the model (paper, section 5.1), over all runs."
    assert joint.head == ("model", "study", "protocol", "x", "y")
    assert joint.rows == tuple(
        ("org/model", run.study, run.protocol, *end)
        for run, end in zip(both, (("1.5", "–"), ("3.0", "w")), strict=True)
    )
    assert joint.to_polars().columns == ["model", "study", "protocol", "x", "y"]
    assert joint.to_polars()["x"].to_list() == [1.5, 2.0]
    assert joint.to_polars()["y"].to_list() == [None, "z"]
    assert "change-over-runs" in [table.name for table in overview_tables(both)]


def test_the_page_escapes_what_runs_say(runs, tmp_path):
    page = overview_page(runs, overview_tables(runs), title="A <title>", root=tmp_path)
    assert "<script>" in page.partition("</main>")[2], "the page's own"
    assert "<script>" not in page.partition("</main>")[0].partition("<body>")[2]
    assert "&lt;b&gt;strict" in page
    assert "A &lt;title&gt;" in page
    assert 'href="m/a/explain-strict/report.html"' in page


def test_one_protocol_needs_no_switch(runs, tmp_path):
    page = overview_page(runs[:1], overview_tables(runs[:1]), title="t", root=tmp_path)
    assert 'type="radio"' not in page


def test_runs_are_found_by_what_folders_hold(runs, tmp_path):
    whole = find_runs([tmp_path], out=tmp_path / "out")
    assert [(run.model, run.study, run.protocol) for run in whole] == [("m", "a", "strict"), ("m", "b", "reference")]
    single = find_runs([tmp_path / "m/a/explain-strict"], out=tmp_path / "out")
    assert [(run.model, run.study) for run in single] == [("model", "explain-strict")]
    with pytest.raises(DposcopeError, match="needs a place of its own; give --out"):
        find_runs([tmp_path], out=None)
    Plan("smoke", "", [], []).save(tmp_path)
    assert len(find_runs([tmp_path], out=None)) == 2


def test_runs_of_one_name_are_told_apart_by_the_folders_above(tmp_path):
    """As far up as it needs, and only where it needs: a third run keeps its short name."""
    folders = [tmp_path / name for name in ("a/x/explain-strict", "b/x/explain-strict", "b/x/other")]
    for folder, after in zip(folders, (0.1, 0.2, 0.25), strict=True):
        finished(folder, after=after, claims=CLAIMS[0])
    found = find_runs([*folders, folders[0]], out=tmp_path / "out")
    names = ["a/x/explain-strict", "b/x/explain-strict", "other"]
    assert [run.study for run in found] == names, "the same folder twice is one run"
    assert claims_over_runs(found).head[3:-1] == tuple(f"model · {name} · strict" for name in names)
    for table in overview_tables(found):
        table.save(tmp_path)
    frame = pl.read_parquet(tmp_path / "findings.parquet")
    assert frame.select("study", "toxicity_after").rows() == list(zip(names, (0.1, 0.2, 0.25), strict=True))
    claims = pl.read_parquet(tmp_path / "claims-over-runs.parquet")
    assert claims["study"].to_list() == names * len(CLAIMS[0])
    page = overview_page(found, overview_tables(found), title="t", root=tmp_path)
    assert all(f"model, {name}" in page for name in names)


def test_the_same_study_of_two_reproductions_is_told_apart(tmp_path):
    for name in ("one", "two"):
        finished(tmp_path / name / "m/a/explain-strict")
    found = find_runs([tmp_path / "one", tmp_path / "two"], out=tmp_path / "out")
    assert [(run.model, run.study) for run in found] == [
        ("m", "one/m/a/explain-strict"),
        ("m", "two/m/a/explain-strict"),
    ]
    other = find_runs([tmp_path / "one", finished(tmp_path / "m", base="m").folder], out=tmp_path / "out")
    assert [(run.model, run.study) for run in other] == [("m", "a"), ("m", "m")]


def test_a_whole_reproduction_keeps_its_order_and_title(runs, tmp_path):
    assert title_of([tmp_path]) == "Several explanations"
    named = ["m/b/explain-reference", "m/a/explain-strict"]
    Plan("smoke", "Mine", [], named).save(tmp_path)
    assert [run.study for run in find_runs([tmp_path], out=tmp_path / "out")] == ["b", "a"]
    assert title_of([tmp_path]) == "Mine"
    assert title_of([tmp_path, tmp_path]) == "Several explanations"


def test_a_report_does_not_replace_that_of_a_run(runs, tmp_path):
    folder = runs[0].folder
    write_json(folder / "run.json", marked(RUN, {"command": "explain", "settings": {}, "free": {}, "versions": {}}))
    with pytest.raises(DposcopeError, match=r"whose own report.html this one would replace"):
        find_runs([folder], out=folder)
    Plan("smoke", "", [], []).save(folder)
    assert len(find_runs([folder], out=folder)) == 1


def test_a_run_of_another_version_is_told(runs):
    write_json(runs[0].folder / "scores.json", {"protocol": "strict"})
    with pytest.raises(
        DposcopeError, match=r"scores\.json is damaged or of another version: model is missing; run dposcope explain"
    ):
        FinishedRun.read(runs[0].folder)


def test_a_run_on_another_drive_is_linked_whole(runs, tmp_path, monkeypatch):
    def refused(*_paths):
        raise ValueError("path is on mount 'C:', start on mount 'D:'")

    monkeypatch.setattr("dposcope.jobs.reproduce.overview.os.path.relpath", refused)
    page = overview_page(runs, overview_tables(runs), title="t", root=tmp_path)
    assert f'href="{(runs[0].folder / "report.html").as_uri()}"' in page


@pytest.mark.parametrize("gone", ["explain.json", "scores.json", "tables.json"])
def test_an_unfinished_run_is_refused(runs, gone):
    folder = runs[0].folder
    (folder / gone).unlink()
    with pytest.raises(DposcopeError, match=rf"is no finished run of dposcope explain \({gone} is missing\)"):
        FinishedRun.read(folder)


def test_a_file_of_something_else_is_refused(runs):
    write_json(runs[0].folder / "explain.json", {"kind": "other"})
    with pytest.raises(DposcopeError, match="is not from dposcope explain"):
        FinishedRun.read(runs[0].folder)


def test_a_report_goes_into_no_folder_of_somebody_elses(runs, tmp_path, capsys):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "mine.txt").write_text("mine")
    told = command(capsys, "report", runs[0].folder, "--out", foreign)
    assert (told.code, told.out) == (2, "")
    assert "choose an empty or new folder for --out" in told.err
    assert [path.name for path in foreign.iterdir()] == ["mine.txt"]
    for _ in range(2):  # an empty folder is free, and an earlier report's is one's own
        assert command(capsys, "report", runs[0].folder, "--out", tmp_path / "new").code == 0


def test_it_says_what_each_run_was_made_of(runs, tmp_path):
    facts = json.loads((runs[0].folder / "explain.json").read_text())
    facts["settings"] = {
        "prompts": "/data/prompts.jsonl",
        "comments": None,
        "judge_comments": ["/data/a.tsv", "b.tsv"],
        "scorer": "profanity",
        "seed": 0,
        "concept": None,
    }
    facts["tuned"] = "/runs/dpo/model"
    write_json(runs[0].folder / "explain.json", facts)
    write_json(runs[0].folder / "run.json", ABOUT | {"versions": {"torch": "2.0"}})
    again = FinishedRun.read(runs[0].folder, study="a")
    table = overview_tables([again, runs[1]])[-1]
    assert table.name == "made-of"
    assert table.head == ("fact", "model · a · strict", "model · b · reference")
    told = {row[0]: row[1:] for row in table.rows}
    assert told["prompts"] == ("prompts.jsonl", "built-in")
    assert told["comments"] == ("built-in", "built-in")
    assert told["judge comments"] == ("a.tsv, b.tsv", "built-in")
    assert told["tuned"] == ("dpo/model", "–")
    assert told["scorer"] == ("profanity", "–")
    assert told["seed"] == ("0", "–")
    assert told["torch"] == ("2.0", "–")
    assert told["prompts measured"] == ("10", "10")
    assert "concept" not in told
    frame = table.to_polars().filter(study="a", fact="seed")
    assert frame["value"].to_list() == ["0"]
